// Package prometheus speaks the HTTP interface of Prometheus: a client for range
// queries, and a decoder for answers, live or recorded.
package prometheus

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxPoints is how many values a series may have in one answer; Prometheus
// refuses a range of more steps.
const MaxPoints = 11_000

const (
	// DefaultTimeout is what one request may take. Prometheus itself ends a query
	// after 2 minutes.
	DefaultTimeout = 30 * time.Second

	// DefaultMaxAnswer bounds an answer's bytes, decompressed: about a million
	// values.
	DefaultMaxAnswer = 32 << 20

	attempts  = 4
	firstWait = 500 * time.Millisecond // doubled after every failed attempt
	maxReason = 300                    // bytes of another program's message
)

// Options say how a Client reaches its server.
type Options struct {
	URL      string // http or https, with the path under which Prometheus is served
	Bearer   string // token; empty: none
	User     string // of basic authentication; empty: that of the URL, if any
	Password string
	CA       []byte        // PEM certificates to trust instead of the system's; empty: the system's
	Timeout  time.Duration // of one request; 0: DefaultTimeout

	// MaxAnswer is the size in bytes above which an answer is a *TooLargeError; 0
	// is DefaultMaxAnswer.
	MaxAnswer int64

	// Wait is called between attempts; nil waits on a timer. It returns the cause
	// when ctx ends first.
	Wait func(ctx context.Context, d time.Duration) error
}

// Client asks one Prometheus, or what speaks its HTTP interface (Thanos, Mimir,
// VictoriaMetrics). It is safe for use by several goroutines at once.
type Client struct {
	http     *http.Client
	base     *url.URL
	bearer   string
	user     string
	password string
	timeout  time.Duration
	max      int64
	wait     func(ctx context.Context, d time.Duration) error
}

// Range is a query over times From, From+Step, … up to To.
type Range struct {
	Query    string // PromQL
	From, To time.Time
	Step     time.Duration
}

// Points is how many times the range has.
func (r Range) Points() int {
	if r.Step <= 0 || r.To.Before(r.From) {
		return 0
	}
	return int(r.To.Sub(r.From)/r.Step) + 1
}

// APIError is a refusal of the server: a wrong query, no permission, or a fault
// that stayed through all attempts.
type APIError struct {
	Status  int    // of HTTP
	Kind    string // Prometheus' errorType, as bad_data or execution; empty when another program answered
	Message string // what the server said
}

// Error is what the server said.
func (e *APIError) Error() string {
	kind := e.Kind
	if kind == "" {
		kind = http.StatusText(e.Status)
	}
	if e.Message == "" {
		return fmt.Sprintf("the server answered %d %s", e.Status, kind)
	}
	return fmt.Sprintf("the server answered %d %s: %s", e.Status, kind, e.Message)
}

// TooLarge reports whether the server refused because it would have to hold too
// many values at once: a shorter range may do.
func (e *APIError) TooLarge() bool {
	return strings.Contains(e.Message, "too many samples") || strings.Contains(e.Message, "exceeded maximum resolution")
}

// passing reports whether another attempt may succeed.
func (e *APIError) passing() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

// TooLargeError says that an answer is larger than the client takes: a shorter
// range may do.
type TooLargeError struct{ Max int64 }

// Error names the limit.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the answer is larger than %d MiB", e.Max>>20)
}

// UnavailableError says that the server did not answer well in any attempt: it may
// do so later.
type UnavailableError struct {
	Attempts int
	Err      error // of the last one
}

// Error is that of the last attempt.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("%v (%d attempts)", e.Err, e.Attempts)
}

// Unwrap gives the error of the last attempt.
func (e *UnavailableError) Unwrap() error { return e.Err }

// NewClient reads the options; it does not connect. No error has a credential in
// it.
func NewClient(o Options) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil {
		// The message of url.Parse quotes the URL, and that may hold a password.
		return nil, errors.New("prometheus: the URL cannot be read; it is http://HOST:PORT or https://HOST:PORT/PATH")
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, errors.New("prometheus: the URL is not http://HOST:PORT or https://HOST:PORT/PATH")
	}
	c := &Client{bearer: o.Bearer, user: o.User, password: o.Password, timeout: o.Timeout, max: o.MaxAnswer, wait: o.Wait}
	if base.User != nil && c.user == "" && c.bearer == "" {
		c.user = base.User.Username()
		c.password, _ = base.User.Password()
	}
	if c.bearer != "" && c.user != "" {
		return nil, errors.New("prometheus: a bearer token and basic authentication are given; a request can carry one")
	}
	c.base = &url.URL{Scheme: base.Scheme, Host: base.Host, Path: strings.TrimSuffix(base.Path, "/")}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if c.max <= 0 {
		c.max = DefaultMaxAnswer
	}
	if c.wait == nil {
		c.wait = pause
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if len(o.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("prometheus: the CA file has no PEM certificate")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	c.http = &http.Client{
		Transport: transport,
		// A redirected POST comes back as a GET without its query; and credentials
		// are for the host that was named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Name is the server's URL without credentials.
func (c *Client) Name() string { return c.base.String() }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// QueryRange gives the body of a good answer to /api/v1/query_range, whole: what
// breaks off is asked for again. Server faults (5xx, 429), time-outs and broken
// connections are tried four times with growing pauses, and are then an
// *UnavailableError; others are *APIError and *TooLargeError. It ends with ctx's
// cause when ctx does.
func (c *Client) QueryRange(ctx context.Context, r Range) ([]byte, error) {
	form := url.Values{
		"query":   {r.Query},
		"start":   {seconds(r.From)},
		"end":     {seconds(r.To)},
		"step":    {strconv.FormatFloat(r.Step.Seconds(), 'f', -1, 64)},
		"timeout": {strconv.FormatFloat(c.timeout.Seconds(), 'f', -1, 64) + "s"},
	}.Encode()
	pauses := firstWait
	for attempt := 1; ; attempt++ {
		body, err := c.once(ctx, "/api/v1/query_range", form)
		if err == nil {
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var refused *APIError
		var large *TooLargeError
		switch {
		case errors.As(err, &large), errors.As(err, &refused) && !refused.passing():
			return nil, err
		case attempt == attempts:
			return nil, &UnavailableError{Attempts: attempts, Err: err}
		}
		if err := c.wait(ctx, pauses); err != nil {
			return nil, err
		}
		pauses *= 2
	}
}

func (c *Client) once(ctx context.Context, path, form string) ([]byte, error) {
	ctx, stop := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within %s", c.timeout))
	defer stop()
	target := *c.base
	target.Path += path
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("User-Agent", "dhalion")
	switch {
	case c.bearer != "":
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	case c.user != "":
		req.SetBasicAuth(c.user, c.password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, plainly(ctx, err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	limit := c.max
	if resp.StatusCode != http.StatusOK {
		limit = 64 << 10
	}
	n, err := body.ReadFrom(io.LimitReader(resp.Body, limit+1))
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp, body.Bytes())
	}
	if err != nil {
		return nil, fmt.Errorf("the answer broke off after %d bytes: %w", n, plainly(ctx, err))
	}
	if n > limit {
		return nil, &TooLargeError{Max: limit}
	}
	return body.Bytes(), nil
}

// plainly takes the method and URL off an error of net/http, which the caller
// names, and says what a passed deadline was.
func plainly(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// refusal is the error in an answer that is not 200. A body that breaks off says
// as much as it says.
func refusal(resp *http.Response, body []byte) error {
	e := &APIError{Status: resp.StatusCode}
	var answer struct {
		Kind    string `json:"errorType"`
		Message string `json:"error"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Message != "" {
		e.Kind, e.Message = clean(answer.Kind), clean(answer.Message)
		return e
	}
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		e.Message = "it points elsewhere"
		if to, err := resp.Location(); err == nil {
			to.User, to.RawQuery, to.Fragment = nil, "", ""
			e.Message += ", to " + clean(strings.TrimSuffix(to.String(), "/api/v1/query_range")) + ": name that URL"
		}
	case strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain"):
		e.Message = clean(string(body))
	}
	return e
}

// clean makes one short line of what another program wrote.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) > maxReason {
		cut := maxReason
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return s
}

// seconds is a time as the interface takes it, exact to the millisecond, which
// is as exact as Prometheus is.
func seconds(at time.Time) string {
	return strconv.FormatFloat(float64(at.UnixMilli())/1e3, 'f', 3, 64)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
