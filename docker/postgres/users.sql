-- Run once, by psql, when the data directory is made: docrow's user, with the rights that docrow needs (docs/roles.md) and
-- no others.
\set password `cat /run/secrets/postgres_password`
CREATE ROLE docrow LOGIN PASSWORD :'password';
GRANT CONNECT, TEMPORARY ON DATABASE :"DBNAME" TO docrow;
CREATE SCHEMA docrow AUTHORIZATION docrow;
GRANT USAGE, CREATE ON SCHEMA public TO docrow;
