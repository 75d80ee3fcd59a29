package lab;

import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.util.OutputTag;

/** A router in front of two sinks with limits of their own; a third of the records go to the second, too. */
public final class Fanout {
    private static final OutputTag<Tuple2<Long, String>> AUDIT = new OutputTag<>("audit", Item.TYPE);

    private Fanout() {}

    public static void main(String[] args) throws Exception {
        Shape s = new Shape(args);
        SingleOutputStreamOperator<Tuple2<Long, String>> routed = s.router(s.keyed(s.plain(s.source("requests", null), "parse", "session"), "session", null), "router", AUDIT, 3);
        s.sink(routed, "store");
        s.sink(routed.getSideOutput(AUDIT), "audit");
        s.run();
    }
}
