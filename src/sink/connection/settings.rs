//! What docrow sets in its sessions.

/// The settings of every session, made before anything else. docrow never runs with another search path:
/// otherwise a function or an operator of another user, for example in `public`, could be a better match than
/// PostgreSQL's own and run with docrow's privileges. So everything that is not PostgreSQL's is qualified
/// with its schema. (`SET` itself looks nothing up; a pooler may refuse the same as a startup option.) If
/// row-level security would hide rows from docrow, which it then could neither change nor delete, the
/// statement fails instead. And commits are on the server's disk, whatever the settings of role, database or
/// server, unless a transaction itself says that they need not be.
///
/// Limits that suit an application's short statements would cancel a replicator's long ones, and even the
/// look into `pg_settings`, so they are lifted first. And when docrow dies, alone or with its machine, its
/// connections and their locks must not outlive it by more than a minute. Not all servers know all of these
/// settings, hence the form.
pub(super) const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0; \
    SELECT pg_catalog.set_config('transaction_timeout', '0', false) \
        WHERE pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL; \
    SET search_path = pg_catalog, pg_temp; SET row_security = off; \
    SET default_transaction_isolation = 'read committed'; SET client_min_messages = 'error'; \
    SELECT set_config('synchronous_commit', 'on', false) \
        WHERE current_setting('synchronous_commit') = 'off'; \
    SELECT set_config(name, value, false) FROM (VALUES \
        ('idle_session_timeout', '0'), ('client_connection_check_interval', '5s'), \
        ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3') \
    ) AS wanted (name, value) WHERE current_setting(name, true) IS NOT NULL";

/// For a session that workers wait for.
pub(super) const IN_HASTE: &str = "SET lock_timeout = '150ms'";
