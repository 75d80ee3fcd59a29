// Package cluster runs a real Flink on this machine: a JobManager and TaskManagers
// as processes of ours, on loopback, each cluster with ports and a folder of its
// own. The processes die with the one that started them.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config says what a cluster looks like. Zero values are 4 TaskManagers of 8
// slots.
type Config struct {
	Dir          string // for configuration, logs, checkpoints
	TaskManagers int
	Slots        int
	// HighAvailability keeps what the JobManager knows in a ZooKeeper of the cluster's
	// own: one that was killed and is started again goes on with its jobs.
	HighAvailability bool
	Properties       map[string]string // of Flink's configuration, over ours
}

// Cluster is a running Flink.
type Cluster struct {
	config  Config
	flink   Distribution
	url     string
	jars    string // class path
	client  *http.Client
	mu      sync.Mutex
	keeper  *process // ZooKeeper
	manager *process
	workers map[string]*process
	uploads map[string]string // jar's path: its id
}

// process is a JVM.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// readyWithin bounds the start of a cluster (10 s on two idle cores, a minute where
// others compile) and that of a job (3 s).
const readyWithin = 3 * time.Minute

// Start starts a cluster and returns when every TaskManager has registered.
func Start(ctx context.Context, d Distribution, config Config) (*Cluster, error) {
	if config.TaskManagers == 0 {
		config.TaskManagers = 4
	}
	if config.Slots == 0 {
		config.Slots = 8
	}
	jars, err := d.classPath()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("cluster: start: %w", err)
	}
	config.Dir = dir
	c := &Cluster{config: config, flink: d, jars: jars, workers: map[string]*process{}, uploads: map[string]string{},
		client: &http.Client{Timeout: 30 * time.Second}}
	if err := c.configure(); err != nil {
		return nil, fmt.Errorf("cluster: start: %w", err)
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster: start: %w", err), c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if c.config.HighAvailability {
		if err := c.startKeeper(); err != nil {
			return err
		}
	}
	if err := c.StartJobManager(); err != nil {
		return err
	}
	for i := 1; i <= c.config.TaskManagers; i++ {
		if err := c.AddWorker(fmt.Sprintf("tm-%d", i)); err != nil {
			return err
		}
	}
	return c.wait(ctx, readyWithin, "all TaskManagers", func() (bool, error) {
		var overview struct {
			TaskManagers int `json:"taskmanagers"`
		}
		if err := c.get(ctx, "/overview", &overview); err != nil {
			return false, nil // not up yet
		}
		return overview.TaskManagers == c.config.TaskManagers, nil
	})
}

// URL is where the REST interface listens.
func (c *Cluster) URL() string { return c.url }

// Dir is the cluster's folder.
func (c *Cluster) Dir() string { return c.config.Dir }

// CheckpointDir is where jobs keep their checkpoints.
func (c *Cluster) CheckpointDir() string { return filepath.Join(c.config.Dir, "checkpoints") }

// Workers are the ids of the TaskManagers that were started and not killed,
// sorted.
func (c *Cluster) Workers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.workers))
}

func (c *Cluster) configure() error {
	for _, sub := range []string{"conf", "log", "tmp", "upload", "checkpoints", "savepoints", "ha", "zookeeper"} {
		if err := os.MkdirAll(filepath.Join(c.config.Dir, sub), 0o755); err != nil {
			return err
		}
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	c.url = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	at := func(sub string) string { return "file://" + filepath.Join(c.config.Dir, sub) }
	settings := map[string]string{
		"jobmanager.rpc.address": "127.0.0.1", "jobmanager.rpc.port": fmt.Sprint(ports[1]), "jobmanager.bind-host": "127.0.0.1",
		"rest.address": "127.0.0.1", "rest.bind-address": "127.0.0.1", "rest.port": fmt.Sprint(ports[0]),
		"taskmanager.bind-host": "127.0.0.1", "taskmanager.host": "127.0.0.1",
		"jobmanager.scheduler": "adaptive",
		"jobmanager.adaptive-scheduler.submission.resource-stabilization-timeout": "1s",
		"jobmanager.adaptive-scheduler.executing.cooldown-after-rescaling":        "1s",
		"jobmanager.adaptive-scheduler.executing.resource-stabilization-timeout":  "1s",
		// Their names before 1.20.
		"jobmanager.adaptive-scheduler.resource-stabilization-timeout": "1s",
		"jobmanager.adaptive-scheduler.scaling-interval.min":           "1s",
		// Else all subtasks pack on one TaskManager.
		"taskmanager.load-balance.mode": "SLOTS", "cluster.evenly-spread-out-slots": "true",
		// Records of 450 bytes fill such a segment soon: queues are shallow.
		"taskmanager.memory.segment-size": "4kb",
		"metrics.fetcher.update-interval": "1000",
		// A worker that dies while it is asked for its metrics holds up those of all others
		// for so long.
		"web.timeout":                      "20000",
		"execution.checkpointing.interval": "10s", "execution.checkpointing.tolerable-failed-checkpoints": "100000",
		"execution.checkpointing.dir": at("checkpoints"), "state.checkpoints.dir": at("checkpoints"),
		"execution.checkpointing.savepoint-dir": at("savepoints"), "state.savepoints.dir": at("savepoints"),
		"heartbeat.interval": "2000",
		// A worker that was killed is missed by two heartbeats that find nobody; one that
		// waits for a processor while others start is not to be lost.
		"heartbeat.timeout":     "30000",
		"restart-strategy.type": "fixed-delay", "restart-strategy": "fixed-delay",
		"restart-strategy.fixed-delay.attempts": "100000", "restart-strategy.fixed-delay.delay": "1s",
		"web.upload.dir": filepath.Join(c.config.Dir, "upload"), "io.tmp.dirs": filepath.Join(c.config.Dir, "tmp"),
	}
	if c.config.HighAvailability {
		maps.Copy(settings, map[string]string{
			"high-availability.type": "zookeeper", "high-availability.zookeeper.quorum": fmt.Sprintf("127.0.0.1:%d", ports[2]),
			"high-availability.storageDir": at("ha"), "high-availability.cluster-id": "/lab", "high-availability.jobmanager.port": fmt.Sprint(ports[1]),
		})
		keeper := fmt.Sprintf("tickTime=2000\ndataDir=%s\nclientPort=%d\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxClientCnxns=60\n",
			filepath.Join(c.config.Dir, "zookeeper"), ports[2])
		if err := os.WriteFile(filepath.Join(c.config.Dir, "conf", "zoo.cfg"), []byte(keeper), 0o644); err != nil {
			return err
		}
	}
	// The one YAML reader takes nested keys: a key may not be a value and a folder.
	name := "config.yaml"
	if strings.HasPrefix(c.flink.Version, "1.18.") {
		name = "flink-conf.yaml"
	} else {
		for _, old := range []string{"restart-strategy"} {
			delete(settings, old)
		}
	}
	maps.Copy(settings, c.config.Properties)
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s: %s\n", key, settings[key])
	}
	if err := os.WriteFile(filepath.Join(c.config.Dir, "conf", name), []byte(text.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.config.Dir, "conf", "log4j.properties"), []byte(`rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} - %m%n
`), 0o644)
}

// freePorts asks the kernel for ports that nobody listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that no port comes twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// StartJobManager starts the JobManager, at first or after KillJobManager, on the
// same ports. It does not wait until it answers.
func (c *Cluster) StartJobManager() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.manager != nil {
		return errors.New("cluster: start JobManager: it runs")
	}
	p, err := c.java("jobmanager", []string{"-Xmx512m", "-XX:MaxMetaspaceSize=160m"}, "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
		"jobmanager.memory.heap.size=512m", "jobmanager.memory.off-heap.size=128m", "jobmanager.memory.jvm-metaspace.size=160m",
		"jobmanager.memory.jvm-overhead.min=192m", "jobmanager.memory.jvm-overhead.max=192m")
	if err != nil {
		return fmt.Errorf("cluster: start JobManager: %w", err)
	}
	c.manager = p
	return nil
}

// startKeeper starts the ZooKeeper that Flink brings along.
func (c *Cluster) startKeeper() error {
	p, err := c.launch("zookeeper", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m",
		"-Dlog4j.configurationFile=file:"+filepath.Join(c.config.Dir, "conf", "log4j.properties"), "-cp", c.jars,
		"org.apache.flink.shaded.zookeeper3.org.apache.zookeeper.server.ZooKeeperServerMain", filepath.Join(c.config.Dir, "conf", "zoo.cfg"))
	if err != nil {
		return fmt.Errorf("cluster: start ZooKeeper: %w", err)
	}
	c.keeper = p
	return nil
}

// KillJobManager kills the JobManager with SIGKILL and waits for its end.
func (c *Cluster) KillJobManager() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.manager == nil {
		return errors.New("cluster: kill JobManager: there is none")
	}
	c.manager.kill()
	c.manager = nil
	return nil
}

// AddWorker starts a TaskManager. It does not wait until it has registered.
func (c *Cluster) AddWorker(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.workers[id] != nil {
		return fmt.Errorf("cluster: add worker %s: it runs", id)
	}
	// What taskmanager.sh would work out.
	p, err := c.java(id, []string{"-Xmx384m", "-Xms384m", "-Xmn32m", "-XX:MaxDirectMemorySize=256m", "-XX:MaxMetaspaceSize=160m", "-Ddhalion.worker=" + id},
		"org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
		"taskmanager.resource-id="+id, fmt.Sprintf("taskmanager.numberOfTaskSlots=%d", c.config.Slots), fmt.Sprintf("taskmanager.cpu.cores=%d.0", c.config.Slots),
		"taskmanager.memory.framework.heap.size=128m", "taskmanager.memory.task.heap.size=256m",
		"taskmanager.memory.framework.off-heap.size=128m", "taskmanager.memory.task.off-heap.size=0b",
		"taskmanager.memory.network.min=64m", "taskmanager.memory.network.max=64m", "taskmanager.memory.managed.size=32m",
		"taskmanager.memory.jvm-metaspace.size=160m", "taskmanager.memory.jvm-overhead.min=192m", "taskmanager.memory.jvm-overhead.max=192m")
	if err != nil {
		return fmt.Errorf("cluster: add worker %s: %w", id, err)
	}
	c.workers[id] = p
	return nil
}

// KillWorker kills a TaskManager with SIGKILL and waits for its end.
func (c *Cluster) KillWorker(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.workers[id]
	if p == nil {
		return fmt.Errorf("cluster: kill worker %s: there is none", id)
	}
	p.kill()
	delete(c.workers, id)
	return nil
}

// Stop ends all processes and waits for them.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.workers {
		p.kill()
		delete(c.workers, id)
	}
	if c.manager != nil {
		c.manager.kill()
		c.manager = nil
	}
	if c.keeper != nil {
		c.keeper.kill()
		c.keeper = nil
	}
	c.client.CloseIdleConnections()
	return nil
}

// Check returns an error with the end of its log when a process has ended that
// nobody killed.
func (c *Cluster) Check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := maps.Clone(c.workers)
	if c.manager != nil {
		all["jobmanager"] = c.manager
	}
	if c.keeper != nil {
		all["zookeeper"] = c.keeper
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		select {
		case <-all[name].done:
			return fmt.Errorf("cluster: %s has ended; its log ends with:\n%s", name, tail(all[name].log, 2000))
		default:
		}
	}
	return nil
}

func tail(path string, bytes int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-bytes), io.SeekStart)
	}
	data, _ := io.ReadAll(f)
	return string(data)
}

// exports and opens are what Flink asks of the module system of Java 17.
var (
	exports = []string{"java.base/sun.net.util", "java.rmi/sun.rmi.registry", "jdk.compiler/com.sun.tools.javac.api", "java.security.jgss/sun.security.krb5"}
	opens   = []string{"lang", "net", "io", "nio", "lang.reflect", "text", "time", "util", "util.concurrent", "util.concurrent.atomic", "util.concurrent.locks"}
)

func (c *Cluster) java(name string, options []string, class string, settings ...string) (*process, error) {
	conf := filepath.Join(c.config.Dir, "conf")
	// Many JVMs share few cores: one compiler that is quickly done, one collector.
	args := append([]string{"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		// Ten seconds by default, too short when several clusters start at once; Flink's
		// option pekko.startup-timeout does not reach it.
		"-Dpekko.remote.classic.startup-timeout=60s"}, options...)
	for _, e := range exports {
		args = append(args, "--add-exports="+e+"=ALL-UNNAMED")
	}
	for _, o := range opens {
		args = append(args, "--add-opens=java.base/java."+o+"=ALL-UNNAMED")
	}
	args = append(args, "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "-Dlog4j.configurationFile=file:"+filepath.Join(conf, "log4j.properties"),
		"-cp", c.jars, class, "--configDir", conf)
	for _, s := range settings {
		args = append(args, "-D", s)
	}
	return c.launch(name, args...)
}

// launch starts a JVM that ends with this process. Its id is in the file NAME.pid of
// the cluster's folder, for commands that act on it from outside.
func (c *Cluster) launch(name string, args ...string) (*process, error) {
	conf := filepath.Join(c.config.Dir, "conf")
	p := &process{log: filepath.Join(c.config.Dir, "log", name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	p.cmd = exec.Command("java", args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env = append(os.Environ(), "FLINK_CONF_DIR="+conf)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel sends the signal when the thread that started it ends, so this
		// one must live as long.
		runtime.LockOSThread()
		defer out.Close()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.config.Dir, name+".pid"), []byte(fmt.Sprintln(p.cmd.Process.Pid)), 0o644); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// Submit uploads a jar, unless that was done before, and runs a class of it. It
// returns the run's id.
func (c *Cluster) Submit(ctx context.Context, jar, class string, args []string) (run string, err error) {
	id, err := c.upload(ctx, jar)
	if err != nil {
		return "", fmt.Errorf("cluster: upload %s: %w", filepath.Base(jar), err)
	}
	body, err := json.Marshal(map[string]any{"entryClass": class, "programArgsList": args})
	if err != nil {
		return "", fmt.Errorf("cluster: submit %s: %w", class, err)
	}
	var answer struct {
		JobID string `json:"jobid"`
	}
	if err := c.do(ctx, http.MethodPost, "/jars/"+id+"/run", "application/json", bytes.NewReader(body), &answer); err != nil {
		return "", fmt.Errorf("cluster: submit %s: %w", class, err)
	}
	return answer.JobID, nil
}

// Jar is the id of an uploaded jar; empty when it was not uploaded.
func (c *Cluster) Jar(path string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.uploads[path]
}

func (c *Cluster) upload(ctx context.Context, jar string) (string, error) {
	if id := c.Jar(jar); id != "" {
		return id, nil
	}
	f, err := os.Open(jar)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("jarfile", filepath.Base(jar))
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(part, f); err != nil {
		return "", err
	}
	if err := form.Close(); err != nil {
		return "", err
	}
	var answer struct {
		Filename string `json:"filename"`
	}
	if err := c.do(ctx, http.MethodPost, "/jars/upload", form.FormDataContentType(), &body, &answer); err != nil {
		return "", err
	}
	id := filepath.Base(answer.Filename)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uploads[jar] = id
	return id, nil
}

// Cancel cancels a run and waits until it has ended.
func (c *Cluster) Cancel(ctx context.Context, run string) error {
	if err := c.do(ctx, http.MethodPatch, "/jobs/"+run, "", nil, nil); err != nil {
		return fmt.Errorf("cluster: cancel %s: %w", run, err)
	}
	return c.wait(ctx, time.Minute, "the end of "+run, func() (bool, error) {
		state, err := c.State(ctx, run)
		return state == "CANCELED" || state == "FAILED" || state == "FINISHED", err
	})
}

// State is the state of a run: RUNNING, RESTARTING, CANCELED and so on.
func (c *Cluster) State(ctx context.Context, run string) (string, error) {
	var answer struct {
		State string `json:"state"`
	}
	err := c.get(ctx, "/jobs/"+run, &answer)
	return answer.State, err
}

// WaitRunning returns when a run is RUNNING with every task of it.
func (c *Cluster) WaitRunning(ctx context.Context, run string) error {
	return c.wait(ctx, readyWithin, "running tasks of "+run, func() (bool, error) {
		var job struct {
			State    string
			Vertices []struct{ Status string }
		}
		if err := c.get(ctx, "/jobs/"+run, &job); err != nil {
			return false, nil
		}
		for _, v := range job.Vertices {
			if v.Status != "RUNNING" {
				return false, nil
			}
		}
		return job.State == "RUNNING" && len(job.Vertices) > 0, nil
	})
}

// wait asks four times a second until it is so, a process has ended, or the time
// is over.
func (c *Cluster) wait(ctx context.Context, within time.Duration, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := so()
		if ok || err != nil {
			return err
		}
		if err := c.Check(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cluster: wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

func (c *Cluster) get(ctx context.Context, path string, into any) error {
	return c.do(ctx, http.MethodGet, path, "", nil, into)
}

func (c *Cluster) do(ctx context.Context, method, path, contentType string, body io.Reader, into any) error {
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return err
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, data[:min(len(data), 500)])
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(data, into)
}
