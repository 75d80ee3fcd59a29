package file_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
)

// huge says whether the inputs of the tests below have their full size: 1 GB of
// garbage, 10 GB behind a few MB of gzip, a line of 100 MB. Set DHALION_HUGE=1;
// it takes some minutes.
var huge = os.Getenv("DHALION_HUGE") != ""

func size(full, small int64) int64 {
	if huge {
		return full
	}
	return small
}

// heapPeak is the most that the heap held while f ran, sampled every millisecond.
func heapPeak(f func()) uint64 {
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	before, peak := sample[0].Value.Uint64(), uint64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticks := time.NewTicker(time.Millisecond)
		defer ticks.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticks.C:
				metrics.Read(sample)
				peak = max(peak, sample[0].Value.Uint64())
			}
		}
	}()
	f()
	close(stop)
	<-done
	return peak - min(peak, before)
}

// noise is random bytes, the same at every call.
func noise(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{7}), n)
}

// repeat gives a text until n bytes have come.
type repeat struct {
	text string
	at   int
	left int64
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) && r.left > 0 {
		k := copy(p[n:min(int64(len(p)), int64(n)+r.left)], r.text[r.at:])
		r.at = (r.at + k) % len(r.text)
		r.left -= int64(k)
		n += k
	}
	return n, nil
}

// bomb is gzip that comes to n bytes of zeros behind what it begins with: a
// member of some MiB, again and again.
func bomb(t *testing.T, begin string, n int64) io.Reader {
	t.Helper()
	member := func(r io.Reader) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	each := size(64<<20, 4<<20)
	zeros := member(&repeat{text: strings.Repeat("\x00", 64<<10), left: each})
	times := (n + each - 1) / each
	return io.MultiReader(bytes.NewReader(member(strings.NewReader(begin))), &repeat{text: string(zeros), left: times * int64(len(zeros))})
}

// readers are the formats that are read as streams.
var readers = map[string]func(string, io.Reader, file.Options) ingest.Source{
	"csv": file.NewCSV, "openmetrics": file.NewOpenMetrics, "prometheus-json": file.NewPrometheus, "arrow": file.NewArrow, "ds2": file.NewDS2,
}

// beginnings are what lets each format go on reading.
var beginnings = map[string]string{
	"csv":             "time,job,metric,value\n",
	"openmetrics":     "# TYPE lag_records gauge\n",
	"prometheus-json": `{"x":"`,
	"arrow":           "ARROW1\x00\x00\xff\xff\xff\xff\x10\x00\x00\x00",
	"ds2":             "# operator_id\n",
}

// mostHeap is what any input may take: buffers, and the collector's own, which
// for so few values has nothing to hold.
const mostHeap = 48 << 20

func TestGarbageIsRefusedInBoundedMemory(t *testing.T) {
	for name, open := range readers {
		for begin, text := range map[string]string{"nothing": "", "its beginning": beginnings[name]} {
			var err error
			took := heapPeak(func() {
				_, err = readSource(open("x", io.MultiReader(strings.NewReader(text), noise(size(1<<30, 4<<20))), file.Options{Job: "wc"}), ingest.Options{})
			})
			if err == nil || took > mostHeap {
				t.Errorf("%s after %s: %v, and %d MiB", name, begin, err, took>>20)
			}
		}
		// All rows may be broken: the whole of it is read.
		took := heapPeak(func() {
			r, err := readSource(open("x", io.MultiReader(strings.NewReader(beginnings[name]), noise(size(1<<30, 4<<20))), file.Options{Job: "wc", SkipBad: 1 << 40}), ingest.Options{})
			if r.report.Values > 0 {
				t.Errorf("%s: %d values in noise: %v", name, r.report.Values, err)
			}
		})
		if took > mostHeap {
			t.Errorf("%s, with all broken rows allowed: %d MiB", name, took>>20)
		}
	}
}

func TestAGzipBombIsRefusedInBoundedMemoryByEveryFormat(t *testing.T) {
	for name, open := range readers {
		for _, skip := range []int{0, 1 << 40} {
			var err error
			took := heapPeak(func() {
				var r io.ReadCloser
				if r, err = file.Decompress(bomb(t, beginnings[name], size(10<<30, 32<<20))); err != nil {
					return
				}
				_, err = readSource(open("x", r, file.Options{Job: "wc", SkipBad: skip}), ingest.Options{})
				err = errors.Join(err, r.Close())
			})
			if err == nil || took > mostHeap {
				t.Errorf("%s: %v, and %d MiB", name, err, took>>20)
			}
		}
	}
}

func TestASpoolEndsAtItsLimit(t *testing.T) {
	var err error
	took := heapPeak(func() {
		var r io.ReadCloser
		if r, err = file.Decompress(bomb(t, "PAR1", size(10<<30, 32<<20))); err != nil {
			return
		}
		var f *os.File
		if f, _, err = file.Spool(r, 1<<20); err == nil {
			err = f.Close()
		}
	})
	if err == nil || err.Error() != "file: spool: it comes to more than 1 MiB; --spool-limit allows more" || took > mostHeap {
		t.Errorf("got %v, and %d MiB", err, took>>20)
	}
	f, n, err := file.Spool(strings.NewReader("12345"), 5)
	if err != nil || n != 5 {
		t.Fatalf("%d, %v", n, err)
	}
	defer f.Close()
	if _, err := os.Stat(f.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file has a name: %v", err)
	}
}

func TestALineWithoutEndIsRefusedInBoundedMemoryByEveryFormat(t *testing.T) {
	n := size(100<<20, 3<<20)
	for name, begin := range map[string]string{
		"csv":             "time,job,metric,value\n1,wc,lag_records,",
		"openmetrics":     `lag_records{job="`,
		"prometheus-json": `{"status":"success","data":{"result":[{"metric":{"a":"`,
		"ds2":             "op,0,1,",
	} {
		var err error
		took := heapPeak(func() {
			_, err = readSource(readers[name]("x", io.MultiReader(strings.NewReader(begin), &repeat{text: "1", left: n}), file.Options{Job: "wc"}), ingest.Options{})
		})
		if err == nil || !strings.Contains(err.Error(), "longer than") || took > mostHeap {
			t.Errorf("%s: %v, and %d MiB", name, err, took>>20)
		}
	}
}

func TestManyValuesTakeNoMoreMemoryThanFew(t *testing.T) {
	n := size(1<<30, 4<<20)
	for name, c := range map[string]struct{ begin, text, end string }{
		"csv":             {"time,job,metric,value\n", "1,wc,lag_records,1\n", ""},
		"openmetrics":     {"", "lag_records{job=\"wc\"} 1 1\n", ""},
		"prometheus-json": {`{"status":"success","data":{"result":[{"metric":{"__name__":"lag_records","job":"wc"},"values":[[1,"1"]`, `,[1,"1"]`, "]}]}}"},
	} {
		text := strings.Repeat(c.text, 1000)
		var got read
		var err error
		took := heapPeak(func() {
			r := io.MultiReader(strings.NewReader(c.begin), &repeat{text: text, left: n / int64(len(text)) * int64(len(text))}, strings.NewReader(c.end))
			got, err = readSource(readers[name]("x", r, file.Options{}), ingest.Options{MaxValues: 100_000})
		})
		if err != nil || got.report.Repairs[ingest.Duplicate] < 1000 || took > mostHeap {
			t.Errorf("%s: %v, %v, and %d MiB", name, err, got.report.Repairs, took>>20)
		}
	}
}

func TestAZstdFrameWithALargeWindowIsRefused(t *testing.T) {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(256<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, &repeat{text: canonical, left: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	took := heapPeak(func() {
		var r io.ReadCloser
		if r, err = file.Decompress(bytes.NewReader(b.Bytes())); err == nil {
			_, err = io.Copy(io.Discard, r)
			err = errors.Join(err, r.Close())
		}
	})
	if err == nil || took > mostHeap {
		t.Errorf("got %v, and %d MiB", err, took>>20)
	}
}
