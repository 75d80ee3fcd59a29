package flink

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func newClient(t testing.TB, base string, o Options) *Client {
	t.Helper()
	c, err := NewClient(base, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// serve runs a handler on the loopback interface until the test ends.
func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func TestCredentialsGoWithEveryRequestAndIntoNoMessage(t *testing.T) {
	var got atomic.Value
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.Header.Get("Authorization") + " " + r.URL.Path)
		fmt.Fprint(w, `{}`)
	}))
	defer s.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	ctx := context.Background()
	for _, c := range []struct {
		base string
		o    Options
		want string
	}{
		{s.URL + "/flink/", Options{CA: ca, Token: "s3cret"}, "Bearer s3cret /flink/overview"},
		{s.URL, Options{CA: ca, User: "ann", Password: "s3cret"}, "Basic YW5uOnMzY3JldA== /overview"},
		{strings.Replace(s.URL, "https://", "https://ann:s3cret@", 1), Options{CA: ca}, "Basic YW5uOnMzY3JldA== /overview"},
		{s.URL, Options{CA: ca}, " /overview"},
	} {
		client := newClient(t, c.base, c.o)
		if a := client.Get(ctx, "/overview"); !a.OK() || got.Load() != c.want {
			t.Errorf("%v: %q, want %q", a, got.Load(), c.want)
		}
		if strings.Contains(client.Name(), "s3cret") {
			t.Errorf("it is called %s", client.Name())
		}
	}
	a := newClient(t, s.URL, Options{Token: "s3cret"}).Get(ctx, "/overview")
	if a.Status != 0 || !strings.Contains(a.Error, "certificate") || strings.Contains(a.Error, "s3cret") {
		t.Errorf("a certificate that nobody vouches for: %+v", a)
	}
	for _, c := range []struct {
		base string
		o    Options
	}{
		{"ftp://ann:s3cret@h", Options{}}, {"http://ann:s3cret@h:x", Options{}}, {"h:8081", Options{}}, {"http://h", Options{Token: "s3cret", User: "ann"}},
		{"http://h", Options{CA: []byte("s3cret")}}, {"http://h/" + strings.Repeat("x", 300), Options{}},
	} {
		if _, err := NewClient(c.base, c.o); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s %+v: %v", c.base, c.o, err)
		}
	}
}

func TestWhatIsNoAnswerSaysWhy(t *testing.T) {
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			<-r.Context().Done()
		case "/broken":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"jobs":[`)
		case "/huge":
			block := bytes.Repeat([]byte(" "), 1<<20)
			for range MaxBody>>20 + 2 {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		case "/elsewhere":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		case "/missing":
			http.Error(w, `{"errors":["Not found."]}`, http.StatusNotFound)
		case "/page":
			fmt.Fprint(w, "<html>\n\xff"+strings.Repeat("x", 1<<20))
		case "/deep":
			fmt.Fprint(w, strings.Repeat("[", 10000)+strings.Repeat("]", 10000))
		case "/two":
			fmt.Fprint(w, "1,2")
		case "/fine":
			fmt.Fprint(w, "{\n \"a\" : [ 1 ] }\n")
		}
	})
	c := newClient(t, base, Options{Timeout: 3 * time.Second})
	patient := newClient(t, base, Options{Timeout: time.Minute})
	quick := newClient(t, base, Options{Timeout: 20 * time.Millisecond})
	ctx := context.Background()
	ended, end := context.WithCancelCause(ctx)
	end(errors.New("enough"))
	for _, x := range []struct {
		a      Answer
		status int
		body   string // its beginning
		reason string // part of it
	}{
		{quick.Get(ctx, "/slow"), 0, "", "no answer within 20ms"},
		{c.Get(ctx, "/broken"), 0, "", "broke off after 9 bytes"},
		{patient.Get(ctx, "/huge"), 0, "", "more than 67043328 bytes"},
		{c.Get(ctx, "/elsewhere"), 302, `"`, ""},
		{c.Get(ctx, "/missing"), 404, `{"errors":["Not found."]}`, ""},
		{c.Get(ctx, "/page"), 200, `"\u003chtml\u003e\n` + "\uFFFDxxx", ""},
		{c.Get(ctx, "/deep"), 200, `"[[[[`, ""},
		{c.Get(ctx, "/two"), 200, `"1,2"`, ""},
		{c.Get(ctx, "/fine"), 200, `{"a":[1]}`, ""},
		{c.Get(ctx, "/empty"), 200, "", ""},
		{c.Get(ended, "/fine"), 0, "", "enough"},
		{c.Get(ctx, "fine"), 0, "", "slash"},
		{c.Get(ctx, "/%zz"), 0, "", "the path cannot be read"},
		{c.Get(ctx, "/"+strings.Repeat("x", 3500)), 0, "", "the request line has"},
		{newClient(t, "http://127.0.0.1:1", Options{}).Get(ctx, "/fine"), 0, "", "connection refused"},
	} {
		if x.a.Status != x.status || !strings.HasPrefix(string(x.a.Body), x.body) || len(x.a.Body) > maxText+100 || !strings.Contains(x.a.Error, x.reason) || (x.reason == "") != (x.a.Error == "") || x.a.Time.IsZero() {
			t.Errorf("%s: %d %.60s %s; want %d %s %s", x.a.Path, x.a.Status, x.a.Body, x.a.Error, x.status, x.body, x.reason)
		}
	}
}

func TestNoMoreRequestsAreOnTheirWayThanAllowed(t *testing.T) {
	var inFlight, most, connections atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := inFlight.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(time.Millisecond)
		inFlight.Add(-1)
		fmt.Fprint(w, `{}`)
	}))
	s.Config.ConnState = countNew(&connections)
	s.Start()
	defer s.Close()
	c := newClient(t, s.URL, Options{})
	var group sync.WaitGroup
	for range 300 {
		group.Go(func() {
			if a := c.Get(context.Background(), "/overview"); !a.OK() {
				t.Errorf("%+v", a)
			}
		})
	}
	group.Wait()
	if most.Load() != 8 || connections.Load() > 8 {
		t.Errorf("%d requests at a time over %d connections, want 8 over 8", most.Load(), connections.Load())
	}
}

func TestAPutIsSentOnceWithItsBody(t *testing.T) {
	got := make(chan string, 10)
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.URL.Path + " " + string(body) + " " + r.Header.Get("Content-Type")
		if r.URL.Path == "/broken" {
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
		w.WriteHeader(http.StatusAccepted)
	})
	c := newClient(t, base, Options{})
	// The second goes over a connection that was used before.
	for _, x := range []struct {
		path   string
		status int
	}{{"/fine", 202}, {"/broken", 0}, {"/fine", 202}} {
		a := c.Do(context.Background(), "PUT", x.path, []byte(`{ "v": 1 }`))
		if a.Status != x.status || string(a.Request) != `{"v":1}` {
			t.Errorf("%+v", a)
		}
		if n := len(got); n != 1 {
			t.Fatalf("%s came %d times", x.path, n)
		}
		if text := <-got; text != "PUT "+x.path+` { "v": 1 } application/json` {
			t.Errorf("%s", text)
		}
	}
}

func TestAnAnswerThatIsWrittenIsTheAnswerThatIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := bytes.NewBufferString("[")
		body.WriteString(rapid.OneOf(
			rapid.Just(""), rapid.Just("null"), rapid.Just("\u2028<&>\x00"), rapid.Just(`{"a":"\u2028<&>",`+"\n"+`"b":[1e400,"`+"\xff"+`"]}`), rapid.String(),
		).Draw(t, "body"))
		a := Answer{
			Time:   time.UnixMicro(rapid.Int64Range(0, 4e15).Draw(t, "time")).UTC(),
			Method: rapid.SampledFrom([]string{"GET", "PUT"}).Draw(t, "method"),
			Path:   "/" + rapid.StringMatching(`[a-zA-Z0-9%?=,._~-]{0,40}`).Draw(t, "path"),
			Status: rapid.SampledFrom([]int{0, 200, 404}).Draw(t, "status"),
			Error:  rapid.String().Draw(t, "error"),
			Body:   compact(body),
		}
		var line bytes.Buffer
		if err := WriteAnswer(&line, a); err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(line.Bytes(), []byte("\n")); n != 1 {
			t.Fatalf("%d lines", n)
		}
		r := NewReader(&line)
		b, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !b.Time.Equal(a.Time) || b.Method != a.Method || b.Path != a.Path || b.Status != a.Status || b.Error != strings.ToValidUTF8(a.Error, "\uFFFD") || !bytes.Equal(a.Body, b.Body) {
			t.Fatalf("wrote %+v\nread  %+v", a, b)
		}
	})
}
