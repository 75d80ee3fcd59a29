package main

import (
	"math"
	"strconv"
	"time"
)

// parseTime reads RFC 3339, or seconds or milliseconds since 1970: numbers from
// 1e11 on are milliseconds, as in canonical CSV. Times have microseconds, as
// PostgreSQL keeps them.
func parseTime(flag, s string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.UTC().Truncate(time.Microsecond), nil
	}
	if v, err := strconv.ParseFloat(s, 64); err == nil && v == v && math.Abs(v) < 1e14 {
		if math.Abs(v) < 1e11 {
			v *= 1e3
		}
		return time.UnixMicro(int64(math.Round(v * 1e3))).UTC(), nil
	}
	return time.Time{}, usagef("%s: %q is no time: write it like 2026-11-22T08:40:16.879Z, or as seconds or milliseconds since 1970", flag, s)
}
