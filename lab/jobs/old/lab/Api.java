package lab;

import org.apache.flink.api.common.functions.RuntimeContext;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;

/** What Flink's interface calls otherwise since 2.0; the folder src has the other one. */
final class Api {
    private Api() {}

    @SuppressWarnings("deprecation") // 1.18 has no other
    static int index(RuntimeContext c) {
        return c.getIndexOfThisSubtask();
    }

    /** A sink whose writers need to know their subtask. */
    abstract static class Out<T> implements Sink<T> {
        abstract SinkWriter<T> writer(int index);

        @Override
        @SuppressWarnings("deprecation")
        public SinkWriter<T> createWriter(Sink.InitContext c) {
            return writer(c.getSubtaskId());
        }
    }
}
