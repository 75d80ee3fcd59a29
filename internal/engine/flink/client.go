package flink

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// DefaultTimeout is what one request may take.
	DefaultTimeout = 10 * time.Second

	// DefaultInFlight is how many requests are on their way at a time.
	DefaultInFlight = 8

	// MaxBody bounds an answer's bytes, decompressed: what a line of a recording
	// can hold.
	MaxBody = MaxLine - 64<<10

	// MaxRequestLine bounds the bytes of a request's first line. Flink refuses
	// 4,096 (FLINK-8949); what stands between may add to it.
	MaxRequestLine = 3500

	maxRefusal = 64 << 10 // bytes read of an answer that is not 2xx
	maxText    = 4 << 10  // bytes kept of a body that is no JSON
	maxReason  = 300      // bytes kept of another program's message
	maxBase    = 256      // bytes of the path that Flink is served under
)

// Options say how a Client reaches its server.
type Options struct {
	Token    string        // bearer; empty: none
	User     string        // of basic authentication; empty: that of the URL, if any
	Password string        //
	CA       []byte        // PEM certificates to trust instead of the system's; empty: the system's
	Timeout  time.Duration // of one request; 0: DefaultTimeout
	InFlight int           // requests at a time; 0: DefaultInFlight

	// Now is the clock that answers are stamped with; nil is time.Now.
	Now func() time.Time
}

// Client asks one Flink cluster. It is safe for use by several goroutines at
// once, and holds no more connections than requests may be in flight.
type Client struct {
	http    *http.Client
	base    *url.URL
	token   string
	user    string
	pass    string
	timeout time.Duration
	slots   chan struct{}
	now     func() time.Time
}

// NewClient reads the URL under which Flink's REST interface is served and the
// options; it does not connect. No error has a credential in it.
func NewClient(base string, o Options) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		// The message of url.Parse quotes the URL, and that may hold a password.
		return nil, errors.New("flink: the URL is not http://HOST:PORT or https://HOST:PORT/PATH")
	}
	c := &Client{
		base:  &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/"), RawPath: strings.TrimSuffix(u.RawPath, "/")},
		token: o.Token, user: o.User, pass: o.Password, timeout: o.Timeout, now: o.Now,
	}
	if len(c.base.EscapedPath()) > maxBase {
		return nil, fmt.Errorf("flink: the URL's path is longer than %d bytes", maxBase)
	}
	if u.User != nil && c.user == "" && c.token == "" {
		c.user = u.User.Username()
		c.pass, _ = u.User.Password()
	}
	if c.token != "" && c.user != "" {
		return nil, errors.New("flink: a bearer token and basic authentication are given; a request can carry one")
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if c.now == nil {
		c.now = time.Now
	}
	n := o.InFlight
	if n <= 0 {
		n = DefaultInFlight
	}
	c.slots = make(chan struct{}, n)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost, transport.MaxConnsPerHost = n, n, n
	transport.MaxResponseHeaderBytes = 256 << 10
	if len(o.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(o.CA) {
			return nil, errors.New("flink: the CA file has no PEM certificate")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	c.http = &http.Client{
		Transport: transport,
		// Credentials are for the host that was named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Name is the server's URL without credentials.
func (c *Client) Name() string { return c.base.String() }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get asks for a path, with its query, escaped. What went wrong is in the
// answer: without one its Status is 0 and its Error says why.
func (c *Client) Get(ctx context.Context, path string) Answer {
	return c.ask(ctx, http.MethodGet, path, nil, nil)
}

// Do sends a request with a JSON body, nil for none: PUT, POST, PATCH or DELETE.
// It is sent once, whatever becomes of it: only the caller knows what may be
// repeated.
func (c *Client) Do(ctx context.Context, method, path string, request []byte) Answer {
	return c.ask(ctx, method, path, request, nil)
}

// room is how many bytes the path of a GET may have.
func (c *Client) room() int {
	return MaxRequestLine - len("GET  HTTP/1.1") - len(c.base.EscapedPath())
}

// ask sends one request. All answers that share an allowance have no more bytes
// than it; nil is none.
func (c *Client) ask(ctx context.Context, method, path string, request []byte, allowance *atomic.Int64) Answer {
	a := Answer{Method: method, Path: path}
	if len(request) > 0 {
		a.Request = oneLine(request)
	}
	status, body, err := c.once(ctx, method, path, request, allowance)
	// As exact as recordings are read.
	a.Time = c.now().UTC().Truncate(time.Microsecond)
	if err != nil {
		a.Error = reason(err.Error())
		return a
	}
	a.Status, a.Body = status, body
	return a
}

var errBroke = errors.New("the answers of this poll are too large")

func (c *Client) once(ctx context.Context, method, path string, request []byte, allowance *atomic.Int64) (status int, body json.RawMessage, err error) {
	if !strings.HasPrefix(path, "/") {
		return 0, nil, errors.New("the path does not begin with a slash")
	}
	if n := len(method) + len(path) + len(c.base.EscapedPath()) + len("  HTTP/1.1"); n > MaxRequestLine {
		return 0, nil, fmt.Errorf("the request line has %d bytes, and Flink takes %d", n, MaxRequestLine)
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
	ctx, stop := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within %s", c.timeout))
	defer stop()
	var send io.Reader
	if request != nil {
		send = bytes.NewReader(request)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, send)
	if err != nil {
		return 0, nil, errors.New("the path cannot be read")
	}
	if request != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "dhalion")
	switch {
	case c.token != "":
		req.Header.Set("Authorization", "Bearer "+c.token)
	case c.user != "":
		req.SetBasicAuth(c.user, c.pass)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, plainly(ctx, err)
	}
	defer resp.Body.Close()
	good := resp.StatusCode/100 == 2
	limit := int64(MaxBody)
	if !good {
		limit = maxRefusal
	}
	var text bytes.Buffer
	text.WriteByte('[') // see compact
	n, err := text.ReadFrom(io.LimitReader(&taken{resp.Body, allowance}, limit+1))
	switch {
	case !good:
		// It is what the status says, however much of its reason came.
	case err != nil:
		return 0, nil, fmt.Errorf("the answer broke off after %d bytes: %w", n, plainly(ctx, err))
	case n > limit:
		return 0, nil, fmt.Errorf("the answer has more than %d bytes", limit)
	}
	return resp.StatusCode, compact(&text), nil
}

// taken reads as long as an allowance lasts.
type taken struct {
	r         io.Reader
	allowance *atomic.Int64
}

// Read is io.Reader's.
func (t *taken) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if t.allowance != nil && t.allowance.Add(-int64(n)) < 0 {
		return n, errBroke
	}
	return n, err
}

// compact makes one line of JSON of a body that stands behind a bracket: so that
// what is nested as deep as a decoder takes is refused here, and not as a line of
// a recording. A body that is no JSON becomes a JSON text of its beginning, nil
// if it is empty.
func compact(text *bytes.Buffer) json.RawMessage {
	inner := bytes.TrimSpace(text.Bytes()[1:])
	if len(inner) == 0 {
		return nil
	}
	if json.Valid(inner) {
		text.WriteByte(']')
		var line bytes.Buffer
		if err := json.Compact(&line, text.Bytes()); err == nil {
			return line.Bytes()[1 : line.Len()-1]
		}
		text.Truncate(text.Len() - 1)
	}
	quoted, err := json.Marshal(cut(string(inner), maxText))
	if err != nil {
		return nil
	}
	return quoted
}

// oneLine is what was sent, for a line of a recording.
func oneLine(request []byte) json.RawMessage {
	text := bytes.NewBufferString("[")
	text.Write(request)
	return compact(text)
}

// plainly takes the method and URL off an error of net/http, which the answer
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

// reason makes one short line of a message.
func reason(s string) string {
	return cut(cmp.Or(strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " "), "no reason given"), maxReason)
}

// cut is the beginning of a text, in whole characters.
func cut(s string, size int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= size {
		return s
	}
	for size > 0 && !utf8.RuneStart(s[size]) {
		size--
	}
	return s[:size] + "…"
}
