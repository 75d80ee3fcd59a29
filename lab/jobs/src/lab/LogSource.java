package lab;

import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.connector.source.Boundedness;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.Source;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource.NumberSequenceSplit;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.core.io.SimpleVersionedSerializer;

/** A log: records become due at the load's rate and stay due until they are read. */
final class LogSource implements Source<Tuple2<Long, String>, NumberSequenceSplit, Collection<NumberSequenceSplit>> {
    private final Job job;
    private final Job.Component c;
    private final String keyed;
    // Splits stand for what a reader has not read; the library's are as good as any.
    private final NumberSequenceSource splits = new NumberSequenceSource(0, 1000);

    LogSource(Job job, String name, String keyed) {
        this.job = job;
        this.c = job.component(name);
        this.keyed = keyed;
    }

    public Boundedness getBoundedness() {
        return Boundedness.CONTINUOUS_UNBOUNDED;
    }

    public SplitEnumerator<NumberSequenceSplit, Collection<NumberSequenceSplit>> createEnumerator(SplitEnumeratorContext<NumberSequenceSplit> context) {
        return splits.createEnumerator(context);
    }

    public SplitEnumerator<NumberSequenceSplit, Collection<NumberSequenceSplit>> restoreEnumerator(
            SplitEnumeratorContext<NumberSequenceSplit> context, Collection<NumberSequenceSplit> s) {
        return splits.restoreEnumerator(context, s);
    }

    public SimpleVersionedSerializer<NumberSequenceSplit> getSplitSerializer() {
        return splits.getSplitSerializer();
    }

    public SimpleVersionedSerializer<Collection<NumberSequenceSplit>> getEnumeratorCheckpointSerializer() {
        return splits.getEnumeratorCheckpointSerializer();
    }

    public SourceReader<Tuple2<Long, String>, NumberSequenceSplit> createReader(SourceReaderContext context) {
        return new Reader(job, c, keyed, context);
    }

    private static final class Reader implements SourceReader<Tuple2<Long, String>, NumberSequenceSplit> {
        private static final ScheduledThreadPoolExecutor TIMER = timer();
        private final Job.Component c;
        private final Knobs knobs;
        private final Cost cost;
        private final Keys keys;
        private final Random random;
        private final int index, of;
        private final double phase;
        private volatile double pending;
        private long last = System.nanoTime(), jitterAt;
        private double jitter = 1;
        private String cut;

        Reader(Job job, Job.Component c, String keyed, SourceReaderContext context) {
            this.c = c;
            index = context.getIndexOfSubtask();
            of = context.currentParallelism();
            knobs = Knobs.of(job.knobs);
            cost = new Cost(job, c, index, true);
            keys = new Keys(job, keyed, c.name, index);
            random = new Random(job.seed * 13L + index);
            phase = Math.floorMod(c.name.hashCode() + job.seed * 37, 628) / 100.0;
            cut = knobs.text("cut");
            context.metricGroup().setPendingRecordsGauge(() -> (long) Math.max(0, pending));
        }

        private double rate() {
            return total() / of;
        }

        private double total() {
            return c.rate * knobs.number("rate", 1) * knobs.number("rate." + c.name, 1);
        }

        private void due() {
            long now = System.nanoTime();
            if (now > jitterAt) {
                jitter = 1 + knobs.number("jitter", 0.06) * (2 * random.nextDouble() - 1);
                jitterAt = now + 1_000_000_000L;
            }
            double wave = knobs.number("wave", 0.1) * Math.sin(System.currentTimeMillis() / 1000.0 * 2 * Math.PI / knobs.number("wave.period", 90) + phase);
            pending += (now - last) / 1e9 * rate() * jitter * (1 + wave);
            last = now;
            String asked = knobs.text("cut");
            if (!asked.equals(cut)) {
                cut = asked;
                pending = Math.min(pending, knobs.number("cut.seconds", 2) * rate());
            }
        }

        private static ScheduledThreadPoolExecutor timer() {
            ScheduledThreadPoolExecutor e = new ScheduledThreadPoolExecutor(1, r -> {
                Thread t = new Thread(r, "due");
                t.setDaemon(true);
                return t;
            });
            // It is not to outlive the job.
            e.setKeepAliveTime(10, TimeUnit.SECONDS);
            e.allowCoreThreadTimeOut(true);
            return e;
        }

        public void start() {}

        public InputStatus pollNext(ReaderOutput<Tuple2<Long, String>> out) {
            due();
            if (pending < 1) {
                return InputStatus.NOTHING_AVAILABLE;
            }
            pending -= 1;
            out.collect(Tuple2.of(keys.next(), Item.BALLAST));
            cost.pay();
            return InputStatus.MORE_AVAILABLE;
        }

        public List<NumberSequenceSplit> snapshotState(long id) {
            String name = String.join("/", c.name, Integer.toString(index), Integer.toString(of), Long.toString(id), cut);
            return Collections.singletonList(new NumberSequenceSplit(name, (long) Math.max(0, pending), System.currentTimeMillis()));
        }

        public CompletableFuture<Void> isAvailable() {
            due();
            if (pending >= 1) {
                return CompletableFuture.completedFuture(null);
            }
            // Some records at a time: every wake-up costs the machine more than a record.
            long micros = (long) Math.min(200_000, Math.max(20_000, (1 - pending) / Math.max(1e-3, rate()) * 1e6));
            CompletableFuture<Void> f = new CompletableFuture<>();
            TIMER.schedule(() -> f.complete(null), micros, TimeUnit.MICROSECONDS);
            return f;
        }

        /**
         * What was due at the checkpoint, and what has become due since, at most two minutes of it: of all the load the
         * share that the split's reader had, for there may be more readers or fewer now.
         */
        public void addSplits(List<NumberSequenceSplit> splits) {
            for (NumberSequenceSplit s : splits) {
                String[] name = s.splitId().split("/", 5);
                if (name.length < 5) {
                    continue; // the enumerator's own, of a new job
                }
                double since = Math.max(0, Math.min(120, (System.currentTimeMillis() - s.to()) / 1000.0));
                pending += s.from() + since * total() / Integer.parseInt(name[2]);
                cut = name[4]; // a cut that was asked for meanwhile is still to be made
            }
        }

        public void notifyNoMoreSplits() {}

        public void close() {}
    }
}
