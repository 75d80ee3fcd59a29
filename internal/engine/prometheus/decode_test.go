package prometheus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode"
)

// line is one value as the tests compare it: NaN equals NaN in text.
func line(labels map[string]string, at int64, v float64) string {
	return fmt.Sprintf("%v %d %v", labels, at, v)
}

func collect(into *[]string) Series {
	return func(labels map[string]string) (Values, error) {
		return func(at int64, v float64) error {
			*into = append(*into, line(labels, at, v))
			return nil
		}, nil
	}
}

const matrix = `{"status":"success","data":{"resultType":"matrix","result":[
 {"metric":{"__name__":"up","job":"flink"},"values":[[1435781430.781,"1"],[1435781445.781,"0.25"]]},
 {"metric":{"job":"a\"b\u00e9\ud83d\ude00"},"values":[[1435781430,"NaN"],[1.43578143e9,"+Inf"],[-1.5,"-2e3"]]}]}}`

func TestAMatrixIsReadToTheMicrosecond(t *testing.T) {
	want := []string{
		line(map[string]string{"__name__": "up", "job": "flink"}, 1435781430781000, 1),
		line(map[string]string{"__name__": "up", "job": "flink"}, 1435781445781000, .25),
		line(map[string]string{"job": `a"bé😀`}, 1435781430000000, math.NaN()),
		line(map[string]string{"job": `a"bé😀`}, 1435781430000000, math.Inf(1)),
		line(map[string]string{"job": `a"bé😀`}, -1500000, -2000),
	}
	for name, r := range map[string]io.Reader{
		"at once":      strings.NewReader(matrix),
		"byte by byte": iotest.OneByteReader(strings.NewReader(matrix)),
		"with its end": iotest.DataErrReader(strings.NewReader(matrix)),
	} {
		var got []string
		a, err := Decode(r, collect(&got))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, want)
		}
		if a.Type != "matrix" || a.Series != 2 || a.Values != 5 || len(a.Warnings) != 0 {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func TestTheOtherShapesAreRead(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"a vector":           {`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1.5,"7"]}]}}`, []string{line(map[string]string{"a": "b"}, 1500000, 7)}},
		"a scalar":           {`{"status":"success","data":{"resultType":"scalar","result":[2,"3"]}}`, []string{line(map[string]string{}, 2000000, 3)}},
		"an empty list":      {`{"status":"success","data":{"resultType":"matrix","result":[]}}`, nil},
		"null for a list":    {`{"status":"success","data":{"resultType":"matrix","result":null}}`, nil},
		"unknown keys":       {`{"x":[{"y":[1,-2e5,true,false,null,"\"\\"]}],"status":"success","infos":["i"],"data":{"stats":{"t":1},"result":[{"z":{},"metric":{"a":"b"},"value":[1,"7"]}],"resultType":"vector"}}`, []string{line(map[string]string{"a": "b"}, 1000000, 7)}},
		"the status at last": {`{"data":{"result":[{"values":[[1,"7"],[2,"8"]],"metric":{"a":"b"}}]},"status":"success"}`, []string{line(map[string]string{"a": "b"}, 1000000, 7), line(map[string]string{"a": "b"}, 2000000, 8)}},
	} {
		var got []string
		if _, err := Decode(strings.NewReader(c.text), collect(&got)); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestWarningsAreHandedOn(t *testing.T) {
	a, err := Decode(strings.NewReader(`{"status":"success","data":{"resultType":"vector","result":[]},"warnings":["store gone","two\nlines"]}`), collect(new([]string)))
	if err != nil || !reflect.DeepEqual(a.Warnings, []string{"store gone", "two lines"}) {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestAnErrorAnswerIsTheServersError(t *testing.T) {
	_, err := Decode(strings.NewReader(`{"status":"error","errorType":"bad_data","error":"parse error at char 3"}`), collect(new([]string)))
	var failed *FailedError
	if !errors.As(err, &failed) || failed.Kind != "bad_data" || err.Error() != "the answer is an error of kind bad_data: parse error at char 3" {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsNoAnswerIsRefusedWithItsPlace(t *testing.T) {
	series := func(inner string) string {
		return `{"status":"success","data":{"resultType":"matrix","result":[` + inner + `]}}`
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing":           {"", "the answer is empty (line 1, byte 0)"},
		"a list":            {"\n[]", `there is '[' where '{' belongs (line 2, byte 1)`},
		"another object":    {`{"a":1}`, `the status is "", not success: is it an answer of Prometheus'?`},
		"no data":           {`{"status":"success"}`, "the answer has no data"},
		"data is a list":    {`{"status":"success","data":["up"]}`, "the data is no object with a result"},
		"a string":          {`{"status":"success","data":{"resultType":"string","result":[1,"x"]}}`, `the result is of type "string"`},
		"broken off":        {matrix[:150], "the answer breaks off"},
		"something after":   {`{"status":"success","data":{"result":[]}} x`, `there is 'x' after the answer`},
		"no labels":         {series(`{"values":[[1,"1"]]}`), "a series has no labels (metric)"},
		"labels twice":      {series(`{"metric":{},"metric":{}}`), "a series has its labels twice"},
		"a label twice":     {series(`{"metric":{"a":"1","a":"2"}}`), `the label "a" is there twice`},
		"no value":          {series(`{"metric":{},"values":[[1,"one"]]}`), `"one" is no value`},
		"a hexadecimal":     {series(`{"metric":{},"values":[[1,"0x10"]]}`), `"0x10" is no value`},
		"a naked value":     {series(`{"metric":{},"values":[[1,1]]}`), `there is '1' where '"' belongs`},
		"three in a pair":   {series(`{"metric":{},"values":[[1,"1",2]]}`), `there is ',' where ']' belongs`},
		"a time in words":   {series(`{"metric":{},"values":[["1","1"]]}`), `there is '"' where a number belongs`},
		"a far time":        {series(`{"metric":{},"values":[[1e300,"1"]]}`), `"1e300" is no time in seconds since 1970`},
		"a far whole time":  {series(`{"metric":{},"values":[[9999999999999999,"1"]]}`), `is no time in seconds since 1970`},
		"histograms":        {series(`{"metric":{},"histograms":[]}`), "native histograms"},
		"deep nesting":      {`{"x":` + strings.Repeat("[", 1000), "the nesting is deeper than 64"},
		"a long label":      {series(`{"metric":{"a":"` + strings.Repeat("x", 70<<10) + `"}}`), "a string is longer than 64 KiB"},
		"a long number":     {series(`{"metric":{},"values":[[` + strings.Repeat("1", 100) + `,"1"]]}`), "more than 64 digits"},
		"bytes in a label":  {series("{\"metric\":{\"a\":\"\xff\"}}"), "a string is not UTF-8"},
		"half a character":  {series(`{"metric":{"a":"\ud83dx"}}`), "half of a character is escaped"},
		"a strange escape":  {series(`{"metric":{"a":"\x41"}}`), `unknown escape \x`},
		"a newline in text": {series("{\"metric\":{\"a\":\"\n\"}}"), `the control character '\n'`},
		"two data":          {`{"data":null,"data":null}`, "the key data is there twice"},
		"two results":       {`{"data":{"result":[],"result":[]}}`, "the key result is there twice"},
	} {
		_, err := Decode(strings.NewReader(c.text), collect(new([]string)))
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestAnErrorOfTheCalleeEndsTheReading(t *testing.T) {
	mine := errors.New("enough")
	if _, err := Decode(strings.NewReader(matrix), func(map[string]string) (Values, error) { return nil, mine }); err != mine {
		t.Errorf("of the series: %v", err)
	}
	n := 0
	_, err := Decode(strings.NewReader(matrix), func(map[string]string) (Values, error) {
		return func(int64, float64) error { n++; return mine }, nil
	})
	if err != mine || n != 1 {
		t.Errorf("of a value: %v after %d", err, n)
	}
	if _, err := Decode(iotest.ErrReader(mine), collect(new([]string))); err != mine {
		t.Errorf("of the reader: %v", err)
	}
}

func TestASeriesCanBePassedOver(t *testing.T) {
	a, err := Decode(strings.NewReader(matrix), func(map[string]string) (Values, error) { return nil, nil })
	if err != nil || a.Values != 5 {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestAnswersInAFileFollowOneAnother(t *testing.T) {
	one := `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1,"7"]}]}}`
	d := NewDecoder(strings.NewReader(one + "\n" + one + "\n\n"))
	var got []string
	n := 0
	for ; ; n++ {
		if _, err := d.Next(collect(&got)); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n != 2 || len(got) != 2 || d.Line() != 4 {
		t.Errorf("%d answers with %d values, at line %d; want 2 with 2, at line 4", n, len(got), d.Line())
	}
}

// repeated is a long answer that is nowhere whole.
type repeated struct {
	head, body, tail string
	n                int
	at               int
	part             string
}

func (r *repeated) Read(p []byte) (int, error) {
	for r.part == "" {
		switch {
		case r.at == 0:
			r.part = r.head
		case r.at <= r.n:
			r.part = r.body
		case r.at == r.n+1:
			r.part = r.tail
		default:
			return 0, io.EOF
		}
		r.at++
	}
	n := copy(p, r.part)
	r.part = r.part[n:]
	return n, nil
}

func TestMemoryDoesNotGrowWithTheAnswer(t *testing.T) {
	r := &repeated{
		head: `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[0,"0"]`,
		body: strings.Repeat(`,[1435781430.781,"123.25"]`, 1000),
		tail: `]}]}}`,
		n:    1000, // 26 MB
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	a, err := Decode(r, func(map[string]string) (Values, error) {
		return func(int64, float64) error { return nil }, nil
	})
	runtime.ReadMemStats(&after)
	if err != nil || a.Values != 1_000_001 {
		t.Fatalf("%+v, %v", a, err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("a million values took %d bytes", got)
	}
	r = &repeated{head: `{"x":"`, body: strings.Repeat("x", 1<<20), tail: `","status":"success","data":{"result":[]}}`, n: 100}
	runtime.ReadMemStats(&before)
	_, err = Decode(r, collect(new([]string)))
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; err != nil || got > 1<<20 {
		t.Errorf("100 MB in a string that nobody asked for took %d bytes: %v", got, err)
	}
}

// FuzzDecode checks the reading against encoding/json: what is handed out of a
// good answer is what a tree of it has.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(matrix))
	f.Add([]byte(`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1.5,"7"]}]},"warnings":["w"]}`))
	f.Add([]byte(`{"status":"error","errorType":"bad_data","error":"x"}`))
	f.Add([]byte(`{"status":"success","data":{"resultType":"scalar","result":[2,"3"]}}`))
	f.Add([]byte(`{"data":{"result":[{"values":[[1,"7"]],"metric":{"a":"b"}}]},"status":"success"}`))
	f.Add([]byte(`{"data":{"result":[{"Values":[[1,"7"]],"metric":{"a":"b"}}]},"status":"success"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		values := 0
		a, err := Decode(bytes.NewReader(data), func(labels map[string]string) (Values, error) {
			return func(int64, float64) error { values++; return nil }, nil
		})
		if err != nil {
			return
		}
		if a.Values != values {
			t.Fatalf("%d values were handed out, the answer says %d", values, a.Values)
		}
		var tree struct {
			Data struct {
				Result json.RawMessage `json:"result"`
			} `json:"data"`
		}
		if json.Unmarshal(data, &tree) != nil || bytes.ContainsAny(data, "\\") {
			return // numbers such as 01 are not JSON, and keys can be escaped
		}
		if bytes.ContainsFunc(data, func(r rune) bool { return unicode.IsUpper(r) || r > unicode.MaxASCII }) {
			return // encoding/json takes a key Values, or one with a long s, for values
		}
		var series []struct {
			Value  []json.RawMessage   `json:"value"`
			Values [][]json.RawMessage `json:"values"`
		}
		if json.Unmarshal(tree.Data.Result, &series) != nil {
			return
		}
		most := 0
		for _, s := range series {
			most += len(s.Values)
			if s.Value != nil {
				most++
			}
		}
		// A key that is there twice counts once in a tree.
		if most > values {
			t.Fatalf("%d values of %d were handed out", values, most)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	body := `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[0,"0"]` +
		strings.Repeat(`,[1435781430.781,"123.25"]`, 100_000) + `]}]}}`
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := Decode(strings.NewReader(body), func(map[string]string) (Values, error) {
			return func(int64, float64) error { return nil }, nil
		}); err != nil {
			b.Fatal(err)
		}
	}
}
