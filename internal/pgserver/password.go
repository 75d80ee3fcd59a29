package pgserver

import (
	"fmt"
	"net/url"
	"os"
	"strings"
)

// The file has libpq's format, so that `PGPASSFILE=$DHALION_HOME/pgpass psql` needs no password either.
const pgpassPrefix = "*:*:*:" + role + ":"

func (l layout) password() (string, error) {
	text, err := os.ReadFile(l.pgpass())
	if err != nil {
		return "", err
	}
	password, ok := strings.CutPrefix(strings.TrimRight(string(text), "\n"), pgpassPrefix)
	if !ok || password == "" || strings.ContainsAny(password, ":\\\n") {
		return "", fmt.Errorf("%s does not have the form that this program wrote; stop the server and remove the file, and the next start sets a new password", l.pgpass())
	}
	return password, nil
}

func (l layout) writePassword(password string) error {
	return l.writeFile(l.pgpass(), pgpassPrefix+password+"\n")
}

// connectionURL is understood by libpq and by pgx. The folder is a parameter because a host in a URL cannot hold a path.
func connectionURL(socketDir, password string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(role, password),
		Path:   "/" + database,
		// libpq takes a plus for a plus, not for a space as url.QueryEscape means it.
		RawQuery: "host=" + strings.ReplaceAll(url.QueryEscape(socketDir), "+", "%20") + "&port=" + port + "&sslmode=disable",
	}
	return u.String()
}
