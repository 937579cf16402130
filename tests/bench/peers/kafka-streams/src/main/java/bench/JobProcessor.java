package bench;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.BytesSerializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * A live message puts its body into the live store, unless the job has finished. A finish takes it out and adds to the
 * sums. The end of a regression gives its answer, and clears all that is kept for it.
 */
final class JobProcessor implements Processor<byte[], byte[], byte[], byte[]> {
    static final String LIVE = "live";
    static final String FINISHED = "finished";
    static final String STATS = "stats";
    private static final byte[] MARK = {1};

    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<Bytes, byte[]> live;
    private KeyValueStore<Bytes, byte[]> finished;
    private KeyValueStore<Bytes, byte[]> stats;

    @Override
    public void init(final ProcessorContext<byte[], byte[]> context) {
        this.context = context;
        live = context.getStateStore(LIVE);
        finished = context.getStateStore(FINISHED);
        stats = context.getStateStore(STATS);
    }

    @Override
    public void process(final Record<byte[], byte[]> record) {
        final byte[] regression = record.key();
        final Header type = record.headers().lastHeader("type");
        if (regression == null || type == null) {
            return;
        }
        final byte[] t = type.value();
        // The four types have four lengths: 8, 10 (two of them differ at byte 0), 11.
        if (t.length == 8) {
            jobLive(regression, record.value());
        } else if (t.length == 10 && t[0] == 'j') {
            jobFinish(regression, record.value());
        } else if (t.length == 10) {
            regrStart(regression);
        } else if (t.length == 11) {
            regrFinish(record);
        }
    }

    private static Job parse(final byte[] body) {
        try {
            return Job.parse(body);
        } catch (final IOException e) {
            throw new IllegalArgumentException(e);
        }
    }

    private void regrStart(final byte[] regression) {
        stats.putIfAbsent(Bytes.wrap(regression), new Stats().encode());
    }

    private void jobLive(final byte[] regression, final byte[] body) {
        final Bytes key = parse(body).storeKey(regression);
        if (finished.get(key) == null) {
            live.put(key, body);
        }
    }

    private void jobFinish(final byte[] regression, final byte[] body) {
        final Job job = parse(body);
        final Bytes key = job.storeKey(regression);
        final Bytes statsKey = Bytes.wrap(regression);
        final Stats s = Stats.decode(stats.get(statsKey));
        if (finished.get(key) != null) {
            s.duplicates++;
        } else {
            finished.put(key, MARK);
            live.put(key, null);
            s.fold(job);
        }
        stats.put(statsKey, s.encode());
    }

    private void regrFinish(final Record<byte[], byte[]> record) {
        final byte[] regression = record.key();
        final Bytes prefix = Job.prefix(regression);
        final long remaining = clear(live, prefix);
        clear(finished, prefix);
        final Bytes statsKey = Bytes.wrap(regression);
        final Stats s = Stats.decode(stats.get(statsKey));
        stats.put(statsKey, null);
        context.forward(record.withValue(s.toJson(regression, remaining)));
    }

    private static long clear(final KeyValueStore<Bytes, byte[]> store, final Bytes prefix) {
        final List<Bytes> keys = new ArrayList<>();
        try (KeyValueIterator<Bytes, byte[]> it = store.prefixScan(prefix, new BytesSerializer())) {
            while (it.hasNext()) {
                keys.add(it.next().key);
            }
        }
        for (final Bytes k : keys) {
            store.put(k, null);
        }
        return keys.size();
    }
}
