package lab;

import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.streaming.api.functions.co.KeyedCoProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;

/** The sorts of component that the shapes are made of. */
final class Stages {
    private Stages() {}

    /** Puts out fan records for each that comes in, spread evenly where fan is no whole number. */
    private static final class Fan {
        private final double fan;
        private double owed;

        Fan(double fan) {
            this.fan = fan;
        }

        void emit(Keys keys, Collector<Tuple2<Long, String>> out) {
            for (owed += fan; owed >= 1; owed--) {
                out.collect(Tuple2.of(keys.next(), Item.BALLAST));
            }
        }
    }

    /** A stage without state. keyed is the keyed component that its records go to, or null. */
    static final class Plain extends ProcessFunction<Tuple2<Long, String>, Tuple2<Long, String>> implements Stage {
        private final Job job;
        private final String name, keyed;
        private final OutputTag<Tuple2<Long, String>> side;
        private final int every;
        private transient Cost cost;
        private transient Keys keys;
        private transient Fan fan;
        private transient long n;

        Plain(Job job, String name, String keyed) {
            this(job, name, keyed, null, 0);
        }

        /** Copies one of every so many records to the side output. */
        Plain(Job job, String name, String keyed, OutputTag<Tuple2<Long, String>> side, int every) {
            this.job = job;
            this.name = name;
            this.keyed = keyed;
            this.side = side;
            this.every = every;
        }

        @Override
        public Job job() {
            return job;
        }

        @Override
        public String component() {
            return name;
        }

        @Override
        public void begin(FunctionInitializationContext c) {
            int index = Api.index(getRuntimeContext());
            cost = new Cost(job, job.component(name), index, false);
            keys = new Keys(job, keyed, name, index);
            fan = new Fan(job.component(name).fan);
        }

        @Override
        public void processElement(Tuple2<Long, String> v, Context c, Collector<Tuple2<Long, String>> out) {
            cost.pay();
            if (side != null && n++ % every == 0) {
                c.output(side, v);
            }
            fan.emit(keys, out);
        }
    }

    /** Counts by key. */
    static final class Keyed extends KeyedProcessFunction<Long, Tuple2<Long, String>, Tuple2<Long, String>> implements Stage {
        private final Job job;
        private final String name, keyed;
        private transient Cost cost;
        private transient Keys keys;
        private transient Fan fan;
        private transient ValueState<Integer> count;

        Keyed(Job job, String name, String keyed) {
            this.job = job;
            this.name = name;
            this.keyed = keyed;
        }

        @Override
        public Job job() {
            return job;
        }

        @Override
        public String component() {
            return name;
        }

        @Override
        public void begin(FunctionInitializationContext c) {
            int index = Api.index(getRuntimeContext());
            cost = new Cost(job, job.component(name), index, false);
            keys = new Keys(job, keyed, name, index);
            fan = new Fan(job.component(name).fan);
            count = c.getKeyedStateStore().getState(new ValueStateDescriptor<>("count", Types.INT));
        }

        @Override
        public void processElement(Tuple2<Long, String> v, Context c, Collector<Tuple2<Long, String>> out) throws Exception {
            cost.pay();
            Integer n = count.value();
            count.update(n == null ? 1 : n + 1);
            fan.emit(keys, out);
        }
    }

    /** Counts by key and puts out what it owes every few seconds, in a burst. */
    static final class Windowed extends KeyedProcessFunction<Long, Tuple2<Long, String>, Tuple2<Long, String>> implements Stage {
        private static final long EVERY = 4000; // ms
        private final Job job;
        private final String name;
        private transient Cost cost;
        private transient Keys keys;
        private transient Fan fan;
        private transient ValueState<Integer> count;

        Windowed(Job job, String name) {
            this.job = job;
            this.name = name;
        }

        @Override
        public Job job() {
            return job;
        }

        @Override
        public String component() {
            return name;
        }

        @Override
        public void begin(FunctionInitializationContext c) {
            int index = Api.index(getRuntimeContext());
            cost = new Cost(job, job.component(name), index, false);
            keys = new Keys(job, null, name, index);
            fan = new Fan(job.component(name).fan);
            count = c.getKeyedStateStore().getState(new ValueStateDescriptor<>("window", Types.INT));
        }

        @Override
        public void processElement(Tuple2<Long, String> v, Context c, Collector<Tuple2<Long, String>> out) throws Exception {
            cost.pay();
            Integer n = count.value();
            count.update(n == null ? 1 : n + 1);
            if (n == null) {
                long now = c.timerService().currentProcessingTime();
                c.timerService().registerProcessingTimeTimer((now / EVERY + 1) * EVERY);
            }
        }

        @Override
        public void onTimer(long at, OnTimerContext c, Collector<Tuple2<Long, String>> out) throws Exception {
            for (int n = count.value() == null ? 0 : count.value(); n > 0; n--) {
                fan.emit(keys, out);
            }
            count.clear();
        }
    }

    /** Joins two inputs by key: the left ones are kept, the right ones put out. */
    static final class Join extends KeyedCoProcessFunction<Long, Tuple2<Long, String>, Tuple2<Long, String>, Tuple2<Long, String>> implements Stage {
        private final Job job;
        private final String name;
        private transient Cost cost;
        private transient Keys keys;
        private transient Fan fan;
        private transient ValueState<Integer> left;

        Join(Job job, String name) {
            this.job = job;
            this.name = name;
        }

        @Override
        public Job job() {
            return job;
        }

        @Override
        public String component() {
            return name;
        }

        @Override
        public void begin(FunctionInitializationContext c) {
            int index = Api.index(getRuntimeContext());
            cost = new Cost(job, job.component(name), index, false);
            keys = new Keys(job, null, name, index);
            fan = new Fan(job.component(name).fan);
            left = c.getKeyedStateStore().getState(new ValueStateDescriptor<>("left", Types.INT));
        }

        @Override
        public void processElement1(Tuple2<Long, String> v, Context c, Collector<Tuple2<Long, String>> out) throws Exception {
            cost.pay();
            Integer n = left.value();
            left.update(n == null ? 1 : n + 1);
            fan.emit(keys, out);
        }

        @Override
        public void processElement2(Tuple2<Long, String> v, Context c, Collector<Tuple2<Long, String>> out) throws Exception {
            cost.pay();
            left.value();
            fan.emit(keys, out);
        }
    }

    /** A sink that takes its time and keeps nothing. */
    static final class Out extends Api.Out<Tuple2<Long, String>> {
        private final Job job;
        private final String name;

        Out(Job job, String name) {
            this.job = job;
            this.name = name;
        }

        @Override
        SinkWriter<Tuple2<Long, String>> writer(int index) {
            Cost cost = new Cost(job, job.component(name), index, false);
            return new SinkWriter<Tuple2<Long, String>>() {
                public void write(Tuple2<Long, String> v, Context x) {
                    cost.pay();
                }

                public void flush(boolean end) {}

                public void close() {}
            };
        }
    }
}
