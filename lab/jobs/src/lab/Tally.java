package lab;

import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.util.Collector;

/** Chained, as Flink does unless told otherwise: a source that splits its lines into words, a count, a trim, a sink behind a map. */
public final class Tally {
    private static final int WORDS = 4; // a line

    private Tally() {}

    public static void main(String[] args) throws Exception {
        Job job = new Job(args);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
        env.setMaxParallelism(128);
        SingleOutputStreamOperator<Tuple2<Long, String>> lines = named(env.fromSource(new LogSource(job, "lines", null), WatermarkStrategy.noWatermarks(), "lines", Item.TYPE), "lines", "lines", job);
        SingleOutputStreamOperator<Tuple2<Long, String>> words = named(lines.process(new Split(job), Item.TYPE), "split", "lines", job);
        SingleOutputStreamOperator<Tuple2<Long, String>> counted = named(words.keyBy(v -> v.f0, Types.LONG).process(new Stages.Keyed(job, "count", null), Item.TYPE), "count", "count", job);
        SingleOutputStreamOperator<Tuple2<Long, String>> enriched = named(counted.rebalance().process(new Stages.Plain(job, "enrich", null), Item.TYPE), "enrich", "enrich", job);
        SingleOutputStreamOperator<Tuple2<Long, String>> trimmed = named(enriched.process(new Pass(), Item.TYPE), "trim", "enrich", job);
        named(trimmed.rebalance().process(new Pass(), Item.TYPE), "deliver", "deliver", job)
                .sinkTo(new Stages.Out(job, "deliver")).name("out").uid("out").setParallelism(job.component("deliver").parallelism);
        env.execute(job.name);
    }

    /** Equal parallelism is what lets Flink chain two operators. */
    private static SingleOutputStreamOperator<Tuple2<Long, String>> named(SingleOutputStreamOperator<Tuple2<Long, String>> s, String name, String component, Job job) {
        return s.name(name).uid(name).setParallelism(job.component(component).parallelism);
    }

    private static final class Split extends ProcessFunction<Tuple2<Long, String>, Tuple2<Long, String>> {
        private final Job job;
        private transient Keys keys;

        Split(Job job) {
            this.job = job;
        }

        @Override
        public void processElement(Tuple2<Long, String> v, Context c, Collector<Tuple2<Long, String>> out) {
            if (keys == null) {
                keys = new Keys(job, "count", "split", Api.index(getRuntimeContext()));
            }
            for (int i = 0; i < WORDS; i++) {
                out.collect(Tuple2.of(keys.next(), Item.BALLAST));
            }
        }
    }

    private static final class Pass extends ProcessFunction<Tuple2<Long, String>, Tuple2<Long, String>> {
        @Override
        public void processElement(Tuple2<Long, String> v, Context c, Collector<Tuple2<Long, String>> out) {
            out.collect(v);
        }
    }
}
