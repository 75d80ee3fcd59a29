package lab;

import org.apache.flink.api.common.functions.RuntimeContext;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;

/** What Flink's interface calls otherwise before 2.0; the folder old has the other one. */
final class Api {
    private Api() {}

    static int index(RuntimeContext c) {
        return c.getTaskInfo().getIndexOfThisSubtask();
    }

    /** A sink whose writers need to know their subtask. */
    abstract static class Out<T> implements Sink<T> {
        abstract SinkWriter<T> writer(int index);

        @Override
        public SinkWriter<T> createWriter(WriterInitContext c) {
            return writer(c.getTaskInfo().getIndexOfThisSubtask());
        }
    }
}
