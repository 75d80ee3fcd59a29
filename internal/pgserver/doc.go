// Package pgserver starts a private PostgreSQL server when no database is configured.
//
// The server belongs to a directory, the home ($DHALION_HOME), and is shared by all commands that use this home:
//
//	data       the cluster (PGDATA)
//	run        the folder of the server's socket, unless its path is too long for one
//	log, log.1 what the server says
//	pgpass     the password, in the format of libpq's password file (0600)
//	use        lock: shared by every command that uses the server, exclusive for one that stops it
//	start      lock: exclusive for a command that starts the server
//	keep       exists while the server shall outlive the commands (`db start`)
//	stopping   names the server process that somebody began to stop
//	init-*     an initdb that has not finished; removed by the next one
//
// There is no supervisor: the first command starts the server, the last one stops it. What a killed command leaves
// behind (a server without users, a server half started or half stopped, half a cluster) is taken over by the next.
package pgserver
