package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// defaultEngine is the first part of the ids of the jobs of a bare URL.
const defaultEngine = "flink"

// engineFlags are what a command line says of an engine, beside its URL or name.
type engineFlags struct {
	name, token, basic, ca string
	timeout                time.Duration
}

// engineFlags adds the flags for an engine to a command.
func (a *app) engineFlags(c *cobra.Command) *engineFlags {
	o := &engineFlags{}
	f := c.Flags()
	f.StringVar(&o.name, "engine", "", "first part of the jobs' ids, for a bare URL (default \""+defaultEngine+"\")")
	f.StringVar(&o.token, "token-file", "", "`file` with a bearer token")
	f.StringVar(&o.basic, "basic-file", "", "`file` with USER:PASSWORD")
	f.StringVar(&o.ca, "ca-file", "", "PEM `file` of the certificates to trust")
	f.DurationVar(&o.timeout, "timeout", 0, fmt.Sprintf("for one request (default that of dhalion.yaml, else %s)", flink.DefaultTimeout))
	a.complete(c, "engine")
	return o
}

// engine says how to reach an engine: arg is a URL, or the name of one in
// dhalion.yaml. What the flags say comes before the file. The URL that is returned
// holds no credentials.
func (a *app) engine(arg string, f *engineFlags) (name, address string, o flink.Options, err error) {
	if f.timeout < 0 {
		return "", "", o, usagef("--timeout %s is not above 0", f.timeout)
	}
	token, basic, ca, timeout := f.token, f.basic, f.ca, f.timeout
	if strings.Contains(arg, "://") {
		name = f.name
		if name == "" {
			name = defaultEngine
		}
		if err := checkNames(name, ""); err != nil {
			return "", "", o, err
		}
		if name == "file" {
			return "", "", o, usagef("--engine file: that is what the jobs of files are under")
		}
		if address, o.User, o.Password, err = splitCredentials(arg); err != nil {
			return "", "", o, err
		}
	} else {
		c, err := a.config()
		if err != nil {
			return "", "", o, err
		}
		e, ok := c.Engines[arg]
		if !ok {
			return "", "", o, unknownEngine(arg, c.File, c.Names())
		}
		if f.name != "" && f.name != arg {
			return "", "", o, usagef("--engine is for a bare URL, and %s is an engine of %s already", arg, c.File)
		}
		name, address = arg, e.URL
		if token == "" && basic == "" {
			token, basic = e.TokenFile, e.BasicFile
		}
		if ca == "" {
			ca = e.CAFile
		}
		if timeout == 0 {
			timeout = e.Timeout
		}
	}
	if token != "" && basic != "" {
		return "", "", o, usagef("--token-file and --basic-file: a request can carry one")
	}
	o.Timeout, o.Now = timeout, a.now
	if token != "" {
		o.User, o.Password = "", ""
		if o.Token, err = readToken(token); err != nil {
			return "", "", o, fmt.Errorf("token file %s: %w", token, err)
		}
	}
	if basic != "" {
		if o.User, o.Password, err = readBasic(basic); err != nil {
			return "", "", o, fmt.Errorf("basic file %s: %w", basic, err)
		}
	}
	if ca != "" {
		if o.CA, err = readCA(ca); err != nil {
			return "", "", o, fmt.Errorf("CA file %s: %w", ca, err)
		}
	}
	return name, address, o, nil
}

// splitCredentials takes the user and password out of a URL. No error quotes it.
func splitCredentials(s string) (address, user, password string, err error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", "", "", usagef("the URL cannot be read; it is written like http://jobmanager:8081")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", "", "", usagef("the URL begins with neither http:// nor https://")
	case u.Hostname() == "":
		return "", "", "", usagef("the URL names no host")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", "", "", usagef("the URL ends with its path: ? and # have no place in it")
	}
	if u.User != nil {
		user = u.User.Username()
		password, _ = u.User.Password()
		u.User = nil
	}
	return strings.TrimRight(u.String(), "/"), user, password, nil
}

// unknownEngine says which engines there are.
func unknownEngine(name, file string, names []string) error {
	switch {
	case file == "":
		return &failure{code: exitUsage, err: fmt.Errorf("%q is no URL, and without a dhalion.yaml no engine has a name", name),
			hint: "give its URL, http://HOST:8081, or write a dhalion.yaml"}
	case len(names) == 0:
		return &failure{code: exitUsage, err: fmt.Errorf("%q is no URL, and %s has no engines", name, file),
			hint: "give its URL, http://HOST:8081"}
	}
	return &failure{code: exitUsage, err: fmt.Errorf("there is no engine %q in %s; there are %s", name, file, strings.Join(names, ", ")),
		hint: "give one of these, or a URL: http://HOST:8081"}
}

// completeEngine offers the names of the engines for the first argument.
func (a *app) completeEngine() completion {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.engineNames(), cobra.ShellCompDirectiveNoFileComp
	}
}

// engineNames is empty when the configuration cannot be read: a key press is no
// place to say why.
func (a *app) engineNames() []string {
	c, err := a.config()
	if err != nil {
		return nil
	}
	names := c.Names()
	for i, name := range names {
		names[i] = name + "\t" + c.Engines[name].URL
	}
	return names
}
