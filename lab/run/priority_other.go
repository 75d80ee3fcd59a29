//go:build !linux

package main

import (
	"context"
	"time"
)

// raisePriority does nothing here: the lab runs on Linux.
func raisePriority() {}

func startGently(context.Context, time.Duration, ...string) {}
