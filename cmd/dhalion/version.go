package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version is the program's version. It is a constant, and not what the build
// was stamped with, because it is in the basis of every plan: the same source
// gives the same plan bytes however it was built.
const Version = "0.1.0"

// program is what a plan says that it was made by.
const program = "dhalion " + Version

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the program's version",
		Example: "  dhalion version\n  dhalion version -o json",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			revision := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						revision = s.Value
					}
				}
			}
			if a.json() {
				return a.writeJSON(struct {
					Version  string `json:"version"`
					Revision string `json:"revision"`
					Go       string `json:"go"`
					Platform string `json:"platform"`
				}{Version, revision, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
			}
			a.printf("dhalion %s (%s, %s/%s)\n", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
