package bench;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Properties;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.DataStreamUtils;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;

/**
 * The benchmark's task as a Flink DataStream job, exactly once, in one subtask of a local mini cluster: keyed map state
 * in RocksDB, incremental checkpoints to the local disk (Flink's counterpart of a changelog), Kafka source and sink.
 */
public final class FlinkLiveJobs {
    private static final JsonFactory JSON = new JsonFactory();
    private static final int COMMIT_MS = 1_000;
    private static final byte OTHER = 0;
    private static final byte REGR_START = 1;
    private static final byte JOB_LIVE = 2;
    private static final byte JOB_FINISH = 3;
    private static final byte REGR_FINISH = 4;

    private FlinkLiveJobs() {
    }

    private static final TypeInformation<Tuple3<String, Byte, byte[]>> EVENT =
        Types.TUPLE(Types.STRING, Types.BYTE, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);
    private static final TypeInformation<Tuple2<String, byte[]>> RESULT =
        Types.TUPLE(Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);

    /** Kafka record to (regression, type, body). */
    static final class EventSchema implements KafkaRecordDeserializationSchema<Tuple3<String, Byte, byte[]>> {
        private static final long serialVersionUID = 1;

        @Override
        public void deserialize(final ConsumerRecord<byte[], byte[]> r,
                                final Collector<Tuple3<String, Byte, byte[]>> out) {
            final Header h = r.headers().lastHeader("type");
            if (r.key() == null || h == null) {
                return;
            }
            final byte[] t = h.value();
            byte type = OTHER;
            if (t.length == 8) {
                type = JOB_LIVE;
            } else if (t.length == 10) {
                type = t[0] == 'j' ? JOB_FINISH : REGR_START;
            } else if (t.length == 11) {
                type = REGR_FINISH;
            }
            out.collect(Tuple3.of(new String(r.key(), StandardCharsets.UTF_8), type, r.value()));
        }

        @Override
        public TypeInformation<Tuple3<String, Byte, byte[]>> getProducedType() {
            return EVENT;
        }
    }

    /** The fields that the task needs, in one streaming pass. */
    static final class Job {
        String startTime = "";
        String category = "";
        String jobdir = "";
        String seed = "";
        String config = "";
        String result = "";
        long cycles;
        long computeMs;
        long runtimeMs;

        static Job parse(final byte[] body) throws IOException {
            final Job job = new Job();
            try (JsonParser p = JSON.createParser(body)) {
                p.nextToken();
                String field;
                while ((field = p.nextFieldName()) != null) {
                    final JsonToken token = p.nextToken();
                    switch (field) {
                        case "start_time" -> job.startTime = p.getValueAsString("");
                        case "category" -> job.category = p.getValueAsString("");
                        case "jobdir" -> job.jobdir = p.getValueAsString("");
                        case "seed" -> job.seed = p.getValueAsString("");
                        case "config" -> job.config = p.getValueAsString("");
                        case "result" -> job.result = p.getValueAsString("");
                        case "cycles" -> job.cycles = p.getValueAsLong();
                        case "compute_ms" -> job.computeMs = p.getValueAsLong();
                        case "runtime_ms" -> job.runtimeMs = p.getValueAsLong();
                        default -> {
                            if (token.isStructStart()) {
                                p.skipChildren();
                            }
                        }
                    }
                }
            }
            return job;
        }

        String id() {
            return startTime + '\u001f' + category + '\u001f' + jobdir + '\u001f' + seed + '\u001f' + config;
        }
    }

    static final class Jobs extends KeyedProcessFunction<String, Tuple3<String, Byte, byte[]>, Tuple2<String, byte[]>> {
        private static final long serialVersionUID = 1;
        private transient MapState<String, byte[]> live;
        private transient MapState<String, Byte> finished;
        /** jobs, pass, fail, skip, cycles, compute_ms, runtime_ms, duplicates */
        private transient ValueState<long[]> stats;

        @Override
        public void open(final OpenContext ctx) {
            live = getRuntimeContext().getMapState(new MapStateDescriptor<>(
                "live", Types.STRING, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
            finished = getRuntimeContext().getMapState(new MapStateDescriptor<>("finished", Types.STRING, Types.BYTE));
            stats = getRuntimeContext().getState(new ValueStateDescriptor<>(
                "stats", PrimitiveArrayTypeInfo.LONG_PRIMITIVE_ARRAY_TYPE_INFO));
        }

        @Override
        public void processElement(final Tuple3<String, Byte, byte[]> e, final Context ctx,
                                   final Collector<Tuple2<String, byte[]>> out) throws Exception {
            switch (e.f1) {
                case JOB_LIVE -> {
                    final String id = Job.parse(e.f2).id();
                    if (!finished.contains(id)) {
                        live.put(id, e.f2);
                    }
                }
                case JOB_FINISH -> {
                    final Job job = Job.parse(e.f2);
                    final String id = job.id();
                    final long[] s = sums();
                    if (finished.contains(id)) {
                        s[7]++;
                    } else {
                        finished.put(id, (byte) 1);
                        live.remove(id);
                        s[0]++;
                        switch (job.result) {
                            case "pass" -> s[1]++;
                            case "skip" -> s[3]++;
                            default -> s[2]++;
                        }
                        s[4] += job.cycles;
                        s[5] += job.computeMs;
                        s[6] += job.runtimeMs;
                    }
                    stats.update(s);
                }
                case REGR_START -> {
                    if (stats.value() == null) {
                        stats.update(new long[8]);
                    }
                }
                case REGR_FINISH -> {
                    final long[] s = sums();
                    long remaining = 0;
                    for (final String ignored : live.keys()) {
                        remaining++;
                    }
                    live.clear();
                    finished.clear();
                    stats.clear();
                    out.collect(Tuple2.of(e.f0, json(e.f0, s, remaining)));
                }
                default -> { }
            }
        }

        private long[] sums() throws IOException {
            final long[] s = stats.value();
            return s == null ? new long[8] : s;
        }
    }

    private static byte[] json(final String regression, final long[] s, final long remaining) throws IOException {
        final ByteArrayOutputStream out = new ByteArrayOutputStream(320);
        try (JsonGenerator g = JSON.createGenerator(out)) {
            g.writeStartObject();
            g.writeStringField("regression", regression);
            g.writeStringField("status", "complete");
            final String[] names = {"jobs", "pass", "fail", "skip", "cycles", "compute_ms", "runtime_ms", "duplicates"};
            for (int i = 0; i < names.length; i++) {
                g.writeNumberField(names[i], s[i]);
            }
            g.writeNumberField("live_remaining", remaining);
            g.writeNumberField("aborted", remaining);
            g.writeEndObject();
        }
        return out.toByteArray();
    }

    static final class ResultSchema implements KafkaRecordSerializationSchema<Tuple2<String, byte[]>> {
        private static final long serialVersionUID = 1;
        private final String topic;

        ResultSchema(final String topic) {
            this.topic = topic;
        }

        @Override
        public ProducerRecord<byte[], byte[]> serialize(final Tuple2<String, byte[]> r, final KafkaSinkContext ctx,
                                                        final Long ts) {
            return new ProducerRecord<>(topic, r.f0.getBytes(StandardCharsets.UTF_8), r.f1);
        }
    }

    public static void main(final String[] args) throws Exception {
        final String broker = System.getenv("BROKER");
        final String group = System.getenv("GROUP");
        final int threads = Integer.parseInt(System.getenv("THREADS"));
        final Path dir = Path.of(System.getenv("STATE_DIR")).toAbsolutePath();

        final Configuration conf = new Configuration();
        conf.set(StateBackendOptions.STATE_BACKEND, "rocksdb");
        conf.set(CheckpointingOptions.INCREMENTAL_CHECKPOINTS, true);
        conf.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, dir.resolve("checkpoints").toUri().toString());
        conf.setString("state.backend.rocksdb.localdir", dir.resolve("rocksdb").toString());
        conf.setString("io.tmp.dirs", dir.resolve("tmp").toString());
        conf.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ofMebiBytes(512));
        conf.set(TaskManagerOptions.NUM_TASK_SLOTS, threads);
        conf.set(PipelineOptions.OBJECT_REUSE, true);
        conf.set(PipelineOptions.GENERIC_TYPES, false);
        final StreamExecutionEnvironment e = StreamExecutionEnvironment.createLocalEnvironment(threads, conf);
        e.enableCheckpointing(COMMIT_MS, CheckpointingMode.EXACTLY_ONCE);

        final KafkaSource<Tuple3<String, Byte, byte[]>> source = KafkaSource.<Tuple3<String, Byte, byte[]>>builder()
            .setBootstrapServers(broker)
            .setTopics(System.getenv("INPUT_TOPIC"))
            .setGroupId(group)
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setDeserializer(new EventSchema())
            .setProperty("max.poll.records", "4000")
            .setProperty("max.partition.fetch.bytes", Integer.toString(4 << 20))
            .setProperty("receive.buffer.bytes", Integer.toString(1 << 20))
            .build();

        final Properties producer = new Properties();
        producer.setProperty("compression.type", "lz4");
        producer.setProperty("linger.ms", "100");
        producer.setProperty("batch.size", Integer.toString(256 << 10));
        producer.setProperty("transaction.timeout.ms", "600000");
        final KafkaSink<Tuple2<String, byte[]>> sink = KafkaSink.<Tuple2<String, byte[]>>builder()
            .setBootstrapServers(broker)
            .setKafkaProducerConfig(producer)
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
            .setTransactionalIdPrefix(group)
            .setRecordSerializer(new ResultSchema(System.getenv("OUTPUT_TOPIC")))
            .build();

        final DataStream<Tuple3<String, Byte, byte[]>> events =
            e.fromSource(source, WatermarkStrategy.noWatermarks(), "events", EVENT);
        // With one subtask every key is already where it belongs: no shuffle, the whole job is one chain. With more
        // there must be one: Flink places keys by hashes of its own, not by Kafka's partitions.
        final KeyedStream<Tuple3<String, Byte, byte[]>, String> keyed = threads == 1
            ? DataStreamUtils.reinterpretAsKeyedStream(events, r -> r.f0, Types.STRING)
            : events.keyBy(r -> r.f0, Types.STRING);
        keyed.process(new Jobs()).returns(RESULT).sinkTo(sink);
        e.execute("live-jobs");
    }
}
