package bench;

import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.config.TopicConfig;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * The benchmark's task on Kafka Streams, exactly once, in one thread: Processor API, three RocksDB stores with
 * changelogs.
 *
 * <p>Says `ready` on standard output when its stores are restored.
 */
public final class LiveJobs {
    private static final int COMMIT_MS = 1_000;
    private static final long CACHE_BYTES = 64L << 20;
    /** Short, so that a program that is started again does not wait for long for its predecessor's partitions. */
    private static final int SESSION_MS = 6_000;

    private LiveJobs() {
    }

    private static StoreBuilder<KeyValueStore<Bytes, byte[]>> store(final String name) {
        return Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(name), Serdes.Bytes(), Serdes.ByteArray())
            .withLoggingEnabled(Map.of(TopicConfig.COMPRESSION_TYPE_CONFIG, "producer"));
    }

    private static Properties properties() {
        final Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, System.getenv("GROUP"));
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, System.getenv("BROKER"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, System.getenv("STATE_DIR"));
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, System.getenv("THREADS"));
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, COMMIT_MS);
        p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, CACHE_BYTES);
        p.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, RocksTuning.class);
        p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 4_000);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.RECEIVE_BUFFER_CONFIG), 1 << 20);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), SESSION_MS);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.HEARTBEAT_INTERVAL_MS_CONFIG), SESSION_MS / 4);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 100);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 128 << 20);
        return p;
    }

    private static Topology topology() {
        final Topology t = new Topology();
        t.addSource("in", new ByteArrayDeserializer(), new ByteArrayDeserializer(), System.getenv("INPUT_TOPIC"));
        t.addProcessor("jobs", JobProcessor::new, "in");
        t.addStateStore(store(JobProcessor.LIVE).withCachingEnabled(), "jobs");
        // No record cache in front of `finished`: its entries are written once, so a cache saves no write there, and
        // costs more than a RocksDB put (measured).
        t.addStateStore(store(JobProcessor.FINISHED).withCachingDisabled(), "jobs");
        t.addStateStore(store(JobProcessor.STATS).withCachingEnabled(), "jobs");
        t.addSink("out", System.getenv("OUTPUT_TOPIC"), new ByteArraySerializer(), new ByteArraySerializer(), "jobs");
        return t;
    }

    public static void main(final String[] args) throws InterruptedException {
        final CountDownLatch stop = new CountDownLatch(1);
        final KafkaStreams streams = new KafkaStreams(topology(), properties());
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                System.out.println("ready");
            }
        });
        streams.setUncaughtExceptionHandler(e -> {
            e.printStackTrace();
            stop.countDown();
            return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close(Duration.ofSeconds(20));
            stop.countDown();
        }));
        streams.start();
        stop.await();
    }
}
