package prometheus

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// server answers each request by the next of the functions, the last one for
// ever, and counts them.
func server(t *testing.T, answers ...http.HandlerFunc) (base string, asked func() int) {
	t.Helper()
	var n atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answers[min(int(n.Add(1)), len(answers))-1](w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() int { return int(n.Load()) }
}

func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// query asks with a client that does not wait between attempts but notes how long
// it would have.
func query(t *testing.T, o Options) (body string, waits []time.Duration, err error) {
	t.Helper()
	if o.Wait == nil {
		o.Wait = func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }
	}
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := c.QueryRange(context.Background(), Range{Query: "up", From: time.UnixMilli(1500), To: time.UnixMilli(11500), Step: 2500 * time.Millisecond})
	return string(b), waits, err
}

func TestAFaultThatPassesIsTriedAgain(t *testing.T) {
	base, asked := server(t,
		text(503, "busy"),
		text(429, ""),
		func(w http.ResponseWriter, r *http.Request) { // breaks off
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"status":"succ`)
		},
		text(200, "whole"))
	body, waits, err := query(t, Options{URL: base + "/"})
	if err != nil || body != "whole" || asked() != 4 {
		t.Fatalf("%q after %d requests, %v", body, asked(), err)
	}
	if got := fmt.Sprint(waits); got != "[500ms 1s 2s]" {
		t.Errorf("waits %s", got)
	}
}

func TestAFaultThatStaysIsTold(t *testing.T) {
	base, asked := server(t, text(502, "bad\ngateway\x1b[31m"))
	_, _, err := query(t, Options{URL: base})
	var away *UnavailableError
	var refused *APIError
	if !errors.As(err, &away) || !errors.As(err, &refused) || refused.Status != 502 || asked() != 4 {
		t.Fatalf("%d requests, %v", asked(), err)
	}
	if want := "the server answered 502 Bad Gateway: bad gateway [31m (4 attempts)"; err.Error() != want {
		t.Errorf("%q, not %q", err, want)
	}
}

func TestARefusalIsToldAtOnceInPrometheusWords(t *testing.T) {
	base, asked := server(t, text(400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:1: parse error"}`))
	_, _, err := query(t, Options{URL: base})
	if want := `the server answered 400 bad_data: invalid parameter "query": 1:1: parse error`; err == nil || err.Error() != want || asked() != 1 {
		t.Errorf("%d requests, %v", asked(), err)
	}
	for message, want := range map[string]bool{
		"query processing would load too many samples into memory in query execution":                      true,
		"exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution": true,
		"parse error": false,
	} {
		if got := (&APIError{Status: 422, Message: message}).TooLarge(); got != want {
			t.Errorf("%s: too large is %v", message, got)
		}
	}
}

func TestNoAnswerInTimeIsAFault(t *testing.T) {
	base, _ := server(t, func(_ http.ResponseWriter, r *http.Request) {
		// The body must be read for the server to notice that the client left.
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	_, _, err := query(t, Options{URL: base, Timeout: 20 * time.Millisecond})
	if err == nil || err.Error() != "no answer within 20ms (4 attempts)" {
		t.Errorf("error %v", err)
	}
}

func TestTheContextEndsTheWaiting(t *testing.T) {
	base, asked := server(t, text(500, ""))
	gone := errors.New("gone")
	ctx, stop := context.WithCancelCause(context.Background())
	c, err := NewClient(Options{URL: base, Wait: func(ctx context.Context, _ time.Duration) error {
		stop(gone)
		return pause(ctx, time.Hour)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.QueryRange(ctx, Range{Query: "up", Step: time.Second}); !errors.Is(err, gone) || asked() != 1 {
		t.Errorf("%d requests, %v", asked(), err)
	}
}

func TestAnAnswerHasALargestSize(t *testing.T) {
	base, asked := server(t, text(200, strings.Repeat("x", 101)), text(200, strings.Repeat("x", 100)))
	_, _, err := query(t, Options{URL: base, MaxAnswer: 100})
	var large *TooLargeError
	if !errors.As(err, &large) || large.Max != 100 || asked() != 1 {
		t.Fatalf("%d requests, %v", asked(), err)
	}
	if body, _, err := query(t, Options{URL: base, MaxAnswer: 100}); err != nil || len(body) != 100 {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

func TestTheRequestIsAFormWithExactTimes(t *testing.T) {
	base, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		user, password, _ := r.BasicAuth()
		fmt.Fprint(w, r.Method, " ", r.URL, " ", r.PostForm.Encode(), " ", user, ":", password, r.Header.Get("Authorization")[:5])
	})
	base = strings.Replace(base, "http://", "http://ann:s3cret@", 1)
	body, _, err := query(t, Options{URL: base + "/prom/"})
	want := "POST /prom/api/v1/query_range end=11.500&query=up&start=1.500&step=2.5&timeout=30s ann:s3cretBasic"
	if err != nil || body != want {
		t.Errorf("%q, not %q; %v", body, want, err)
	}
}

func TestNoErrorAndNoNameHasACredential(t *testing.T) {
	for _, bad := range []string{"http://ann:s3cret@h:port", "ftp://ann:s3cret@h", "http://", "://ann:s3cret@h", "http://ann:s3cret@h\x7f"} {
		if _, err := NewClient(Options{URL: bad}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := NewClient(Options{URL: "http://h", Bearer: "s3cret", User: "ann"}); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("token and password: %v", err)
	}
	// Nothing listens on port 1; and a redirect is not followed.
	base, asked := server(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://bob:other@elsewhere:9090/prom/api/v1/query_range?token=x", http.StatusFound)
	})
	withUser := strings.Replace(base, "http://", "http://ann:s3cret@", 1)
	for _, bad := range []string{"http://ann:s3cret@127.0.0.1:1/x", withUser} {
		_, _, err := query(t, Options{URL: bad})
		if err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "other") || strings.Contains(err.Error(), "token") {
			t.Errorf("%s: %v", bad, err)
		}
		if bad == withUser && !strings.Contains(err.Error(), "to http://elsewhere:9090/prom: name that URL") {
			t.Errorf("redirect: %v", err)
		}
	}
	if asked() != 1 {
		t.Errorf("%d requests", asked())
	}
	c, err := NewClient(Options{URL: "https://ann:s3cret@h/prom?token=x"})
	if err != nil || c.Name() != "https://h/prom" {
		t.Errorf("%v, %v", c.Name(), err)
	}
}

func TestOnlyANamedAuthorityIsTrusted(t *testing.T) {
	s := httptest.NewUnstartedServer(text(200, "safe"))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // for the handshake that is refused
	s.StartTLS()
	defer s.Close()
	if _, _, err := query(t, Options{URL: s.URL}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if body, _, err := query(t, Options{URL: s.URL, CA: ca}); err != nil || body != "safe" {
		t.Errorf("%q, %v", body, err)
	}
	if _, err := NewClient(Options{URL: s.URL, CA: []byte("none")}); err == nil {
		t.Error("a CA file without a certificate passed")
	}
}

func TestARangeCountsItsTimes(t *testing.T) {
	at := time.UnixMilli(0)
	for _, c := range []struct {
		to, step time.Duration
		want     int
	}{{0, time.Second, 1}, {9999 * time.Millisecond, time.Second, 10}, {10 * time.Second, time.Second, 11}, {-1, time.Second, 0}, {1, 0, 0}} {
		if got := (Range{From: at, To: at.Add(c.to), Step: c.step}).Points(); got != c.want {
			t.Errorf("%v in steps of %v: %d, not %d", c.to, c.step, got, c.want)
		}
	}
}
