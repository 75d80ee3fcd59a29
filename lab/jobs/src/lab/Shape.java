package lab;

import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.OutputTag;

/** Puts a job together; every component is a vertex of its own. */
final class Shape {
    private final Job job;
    private final StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();

    Shape(String[] args) {
        job = new Job(args);
        env.disableOperatorChaining();
        env.setMaxParallelism(128);
    }

    /** keyed is the keyed component that the records go to, or null. */
    DataStream<Tuple2<Long, String>> source(String name, String keyed) {
        return env.fromSource(new LogSource(job, name, keyed), WatermarkStrategy.noWatermarks(), name, Item.TYPE)
                .setParallelism(job.component(name).parallelism).uid(name);
    }

    SingleOutputStreamOperator<Tuple2<Long, String>> plain(DataStream<Tuple2<Long, String>> in, String name, String keyed) {
        return named(in.rebalance().process(new Stages.Plain(job, name, keyed), Item.TYPE), name);
    }

    SingleOutputStreamOperator<Tuple2<Long, String>> router(DataStream<Tuple2<Long, String>> in, String name, OutputTag<Tuple2<Long, String>> side, int every) {
        return named(in.rebalance().process(new Stages.Plain(job, name, null, side, every), Item.TYPE), name);
    }

    SingleOutputStreamOperator<Tuple2<Long, String>> keyed(DataStream<Tuple2<Long, String>> in, String name, String keyed) {
        return named(in.keyBy(v -> v.f0, Types.LONG).process(new Stages.Keyed(job, name, keyed), Item.TYPE), name);
    }

    SingleOutputStreamOperator<Tuple2<Long, String>> windowed(DataStream<Tuple2<Long, String>> in, String name) {
        return named(in.keyBy(v -> v.f0, Types.LONG).process(new Stages.Windowed(job, name), Item.TYPE), name);
    }

    SingleOutputStreamOperator<Tuple2<Long, String>> join(DataStream<Tuple2<Long, String>> left, DataStream<Tuple2<Long, String>> right, String name) {
        return named(left.keyBy(v -> v.f0, Types.LONG).connect(right.keyBy(v -> v.f0, Types.LONG)).process(new Stages.Join(job, name), Item.TYPE), name);
    }

    void sink(DataStream<Tuple2<Long, String>> in, String name) {
        in.rebalance().sinkTo(new Stages.Out(job, name)).name(name).uid(name).setParallelism(job.component(name).parallelism);
    }

    void run() throws Exception {
        env.execute(job.name);
    }

    private SingleOutputStreamOperator<Tuple2<Long, String>> named(SingleOutputStreamOperator<Tuple2<Long, String>> s, String name) {
        return s.name(name).uid(name).setParallelism(job.component(name).parallelism);
    }
}
