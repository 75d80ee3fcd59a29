package file

import (
	"math"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTimesAreReadAsTheStandardLibraryReadsThem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// The years 1 to 9999 in seconds since 1970.
		at := time.Unix(rapid.Int64Range(-62135596800, 253402300799).Draw(t, "second"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanosecond")).
			In(time.FixedZone("", 60*rapid.IntRange(-14*60, 14*60).Draw(t, "zone")))
		written := at.Format(time.RFC3339Nano)
		want, err := time.Parse(time.RFC3339Nano, written)
		if err != nil {
			t.Skip("a year that RFC 3339 cannot write")
		}
		got, err := parseTime([]byte(written))
		if err != nil || got != want.UnixMicro() {
			t.Fatalf("%s: got %d, %v, want %d", written, got, err, want.UnixMicro())
		}
	})
}

func TestWhatTheStandardLibraryTakesForNoTimeIsNone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := []byte("2026-03-01T12:34:56.789+01:00")
		b[rapid.IntRange(0, len(b)-1).Draw(t, "place")] = rapid.Byte().Draw(t, "byte")
		_, want := time.Parse(time.RFC3339Nano, string(b))
		got, err := parseTime(b)
		if want == nil {
			at, _ := time.Parse(time.RFC3339Nano, string(b))
			if err != nil || got != at.UnixMicro() {
				t.Fatalf("%q: got %d, %v", b, got, err)
			}
			return
		}
		// Beyond the standard library a space or a small t may stand for the T.
		if err == nil && b[10] != ' ' && b[10] != 't' {
			t.Fatalf("%q is taken for %d", b, got)
		}
	})
}

func TestNumbersAreSecondsOrMillisecondsByTheirSize(t *testing.T) {
	for written, want := range map[string]int64{
		"0":                  0,
		"1772366402":         1772366402_000000,
		"1772366402.5":       1772366402_500000,
		"1772366402000":      1772366402_000000,
		"1772366402000.25":   1772366402_000250,
		"1772366402.1234567": 1772366402_123456,
		"-1":                 -1_000000,
		"99999999999":        99999999999_000000, // the year 5138
		"100000000000":       100000000_000000,   // March 1973
		"1.772366402e9":      1772366402_000000,
	} {
		if got, err := parseTime([]byte(written)); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", written, got, err, want)
		}
	}
	for _, written := range []string{"", "-", ".", "1e", "0x10", "1_000", "99999999999999999999", "1e300", "NaN", "Inf", "12:00"} {
		if got, err := parseTime([]byte(written)); err == nil {
			t.Errorf("%q is taken for %d", written, got)
		}
	}
}

func TestNumbersAreReadToTheLastBit(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, written string) {
		want, err := strconv.ParseFloat(written, 64)
		if err != nil {
			return
		}
		got, err := parseValue([]byte(written))
		if err != nil || math.Float64bits(got) != math.Float64bits(want) {
			t.Fatalf("%s: got %v, %v, want %v", written, got, err, want)
		}
	}
	for _, written := range []string{"0", "-0", ".5", "5.", "+1", "0.1", "123456789012345", "1234567890123456", "0.000000000000001", "1e-400", "00000000000000000001"} {
		check(t, written)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, strconv.FormatFloat(rapid.Float64().Draw(t, "value"), 'g', -1, 64))
		check(t, strconv.FormatFloat(rapid.Float64Range(0, 1e6).Draw(t, "decimal"), 'f', rapid.IntRange(0, 12).Draw(t, "digits"), 64))
		check(t, rapid.StringMatching(`[0-9]{0,16}\.?[0-9]{0,16}`).Draw(t, "text"))
	})
}
