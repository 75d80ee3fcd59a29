package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// recorded is what became of a recording.
type recorded struct {
	File     string     `json:"file"`
	Jobs     []string   `json:"jobs"`
	Polls    int        `json:"polls"`
	Failed   int        `json:"failed"` // of the polls
	Answers  int        `json:"answers"`
	Requests int        `json:"requests"` // of the newest poll
	Bytes    int64      `json:"bytes"`    // of the file
	From     *time.Time `json:"from"`
	To       *time.Time `json:"to"`
}

func (a *app) recordCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "record",
		Short: "Write down what an engine answers, to read it later",
		Example: `  dhalion record flink http://jobmanager:8081 --out monday.jsonl.gz
  dhalion ingest monday.jsonl.gz`,
	}
	return group(c, a.recordFlink())
}

func (a *app) recordFlink() *cobra.Command {
	var o pollFlags
	var out string
	var add, force bool
	c := &cobra.Command{
		Use:   "flink URL|ENGINE --out FILE",
		Short: "Write down what a Flink cluster answers",
		Long: `Write down what a Flink cluster answers, poll by poll, until --for is over or the
command is interrupted: dhalion ingest FILE then gives what dhalion ingest flink would have
given. FILE is compressed when its name ends with .gz or .zst. Each poll is written as a
whole, so that a kill loses no more than the last one.

The answers hold names, addresses and the texts of exceptions of the cluster; credentials
are never among them.`,
		Example: `  dhalion record flink http://jobmanager:8081 --out monday.jsonl.gz --job orders
  dhalion record flink prod --out monday.jsonl.zst --every 10s --for 8h`,
		Args: one("URL, or name of an engine"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case out == "":
				return usagef("--out says where the recording goes")
			case add && force:
				return usagef("--append and --force: a file is kept or lost")
			}
			poller, client, _, err := o.open(a, cmd, args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			return a.record(cmd.Context(), client, poller, o.span, out, add, force)
		},
	}
	o.add(a, c, 5*time.Second)
	f := c.Flags()
	f.StringVar(&out, "out", "", "`file` to write")
	f.BoolVar(&add, "append", false, "go on with FILE if it is there")
	f.BoolVar(&force, "force", false, "lose what is in FILE")
	c.ValidArgsFunction = a.completeEngine()
	return c
}

func (a *app) record(ctx context.Context, client *flink.Client, poller *flink.Poller, span time.Duration, name string, add, force bool) error {
	if !add && !force {
		if err := absent(name, "go on with it: --append; or lose what is in it: --force"); err != nil {
			return err
		}
	}
	head := []flink.Answer{client.Get(ctx, "/config"), client.Get(ctx, "/overview")}
	if ctx.Err() != nil {
		return nil
	}
	if !head[0].OK() && !head[1].OK() {
		return fmt.Errorf("record: %s does not answer as Flink does: %s", client.Name(), problem(head[0]))
	}
	file, err := openRecording(name, add, force)
	if err != nil {
		return err
	}
	r := &recorded{File: name, Jobs: []string{}}
	err = a.poll(ctx, poller, span, func(answers []flink.Answer, failed error) error {
		r.Polls++
		if failed != nil {
			r.Failed++
		}
		if r.Polls == 1 {
			if failed != nil {
				return fmt.Errorf("record: %w", failed)
			}
			answers = slices.Concat(head, answers)
		}
		if err := file.write(answers); err != nil {
			return fmt.Errorf("record: write %s: %w", name, err)
		}
		r.add(answers)
		r.Requests = poller.Requests()
		if width, shown := terminal(a.err); shown {
			line := fmt.Sprintf("%s, %s, %s to %s", plural(r.Polls, "poll"), plural(r.Answers, "answer"), size(file.size), plain(name))
			fmt.Fprintf(a.err, "%s%s\r", clearLine, clip(line, width-1))
		}
		return nil
	})
	if _, shown := terminal(a.err); shown && r.Answers > 0 {
		fmt.Fprintln(a.err)
	}
	if cerr := file.close(); err == nil && cerr != nil {
		err = fmt.Errorf("record: write %s: %w", name, cerr)
	}
	r.Bytes = file.size
	if err != nil || r.Answers == 0 {
		return err
	}
	if a.json() {
		return a.writeJSON(r)
	}
	a.printf("%s: %s", a.style(bold, plain(name)), plural(r.Polls, "poll"))
	if r.Failed > 0 {
		a.printf(" (%d failed)", r.Failed)
	}
	a.printf(", %s, %s\n", plural(r.Answers, "answer"), size(r.Bytes))
	a.printf("  jobs    %s\n", wrap(plain(strings.Join(r.Jobs, ", ")), a.width()-10, "          "))
	a.printf("  time    %s to %s\n", when(*r.From), when(*r.To))
	a.next([2]string{command("ingest", name), "read it into the database"})
	return nil
}

// add counts the answers of a poll.
func (r *recorded) add(answers []flink.Answer) {
	for _, one := range answers {
		r.Answers++
		switch one.Resource().Kind {
		case flink.KindJobs:
			at := one.Time
			if r.From == nil {
				r.From = &at
			}
			r.To = &at
		case flink.KindJob:
			if d, err := flink.Decode[flink.Job](one.Body); one.OK() && err == nil && !slices.Contains(r.Jobs, d.Name) {
				r.Jobs = append(r.Jobs, d.Name)
				slices.Sort(r.Jobs)
			}
		}
	}
}

// problem says in a few words why an answer is none.
func problem(a flink.Answer) string {
	if a.Status == 0 {
		return a.Error
	}
	return fmt.Sprintf("%s is answered with %d", a.Path, a.Status)
}

// pollsPerFrame is how many polls go into one frame of zstd, which finds in one
// poll what was in another: frames of a poll are twice as large. gzip does not see
// as far; with a member for each poll its files are whole at any time, and 14 %
// larger.
const pollsPerFrame = 12

// recording is a file that polls are written to.
type recording struct {
	f     *os.File
	fresh bool // it was not there
	kept  bool // a poll is in it that was written here
	lose  bool // what is in it, when there is something to write
	size  int64
	kind  string // how it is compressed: gz, zst or not at all
	text  bytes.Buffer
	gz    *gzip.Writer
	zst   *zstd.Encoder
	polls int // in the frame
}

// absent refuses to record to a file that is there, with what the command can do
// instead.
func absent(name, instead string) error {
	if _, err := os.Lstat(name); err == nil {
		return hinted(fmt.Errorf("record: %s is there already", name), "%s", instead)
	}
	return nil
}

func openRecording(name string, add, force bool) (*recording, error) {
	r := &recording{fresh: true}
	for _, kind := range []string{"gz", "zst"} {
		if strings.HasSuffix(strings.ToLower(name), "."+kind) {
			r.kind = kind
		}
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if info, err := os.Stat(name); err == nil && (add || force) {
		r.fresh, mode = false, os.O_WRONLY
		switch {
		case !info.Mode().IsRegular():
			return nil, fmt.Errorf("record: %s is no file", name)
		case force:
			r.lose = true
		default:
			if err := r.check(name); err != nil {
				return nil, err
			}
			mode, r.size = mode|os.O_APPEND, info.Size()
		}
	}
	var err error
	if r.f, err = os.OpenFile(name, mode, 0o600); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return r, nil
}

// check refuses to go on with a file that is no recording, or is compressed in
// another way, or ends in the middle of a line: nothing could be read behind that.
func (r *recording) check(name string) error {
	bad := func(reason string) error {
		return hinted(fmt.Errorf("record: %s cannot be gone on with: %s", name, reason), "record to another file")
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	defer f.Close()
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err == io.EOF {
		return nil // empty
	}
	kind := ""
	switch head = head[:n]; {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		kind = "gz"
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		kind = "zst"
	}
	if kind != r.kind {
		return bad("its name says something else of its compression than its content")
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	content, err := file.Decompress(f)
	if err != nil {
		return bad(err.Error())
	}
	defer content.Close()
	end := &ending{}
	in := flink.NewReader(io.TeeReader(content, end))
	for {
		_, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return bad(fmt.Sprintf("line %d cannot be read", in.Line()))
		}
	}
	if end.last != '\n' {
		return bad("its last line has no end")
	}
	return nil
}

// ending keeps the last byte of what is written to it.
type ending struct{ last byte }

// Write is io.Writer's.
func (e *ending) Write(p []byte) (int, error) {
	if len(p) > 0 {
		e.last = p[len(p)-1]
	}
	return len(p), nil
}

// write appends one poll, with a single call to the system.
func (r *recording) write(answers []flink.Answer) error {
	r.text.Reset()
	var to io.Writer = &r.text
	var err error
	switch r.kind {
	case "gz":
		if r.gz == nil {
			r.gz = gzip.NewWriter(&r.text)
		} else {
			r.gz.Reset(&r.text)
		}
		to = r.gz
	case "zst":
		if r.zst == nil {
			r.zst, err = zstd.NewWriter(&r.text, zstd.WithEncoderConcurrency(1))
		}
		to = r.zst
	}
	if err != nil {
		return err
	}
	for _, a := range answers {
		if err := flink.WriteAnswer(to, a); err != nil {
			return err
		}
	}
	r.polls++
	switch {
	case r.kind == "gz":
		err = r.gz.Close()
	case r.kind == "zst" && r.polls == pollsPerFrame:
		err = r.endFrame()
	case r.kind == "zst":
		err = r.zst.Flush()
	}
	if err != nil {
		return err
	}
	if err := r.put(); err != nil {
		return err
	}
	r.kept = true
	return nil
}

// endFrame ends a frame of zstd; the next write begins another.
func (r *recording) endFrame() error {
	err := r.zst.Close()
	r.zst.Reset(&r.text)
	r.polls = 0
	return err
}

func (r *recording) put() error {
	if r.lose {
		if err := r.f.Truncate(0); err != nil {
			return err
		}
		r.lose = false
	}
	n, err := r.f.Write(r.text.Bytes())
	r.size += int64(n)
	return err
}

// close ends the file, and removes it where nothing was recorded and nothing was
// there before.
func (r *recording) close() error {
	var err error
	if r.kind == "zst" && r.polls > 0 {
		r.text.Reset()
		err = r.endFrame()
		err = errors.Join(err, r.put())
	}
	err = errors.Join(err, r.f.Sync(), r.f.Close())
	if r.fresh && !r.kept {
		err = errors.Join(err, os.Remove(r.f.Name()))
	}
	return err
}
