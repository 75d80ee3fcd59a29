package lab;

import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;

/** source, splitter, counter (keyed), sink. */
public final class WordCount {
    private WordCount() {}

    public static void main(String[] args) throws Exception {
        Shape s = new Shape(args);
        DataStream<Tuple2<Long, String>> sentences = s.source("source", null);
        DataStream<Tuple2<Long, String>> words = s.plain(sentences, "splitter", "counter");
        s.sink(s.keyed(words, "counter", null), "sink");
        s.run();
    }
}
