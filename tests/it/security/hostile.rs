//! What a user who may create objects in `public` can do to docrow: nothing.

use docrow::sink::Target;
use mongodb::bson::doc;

use crate::support::{Home, Place};

/// Twins of PostgreSQL's functions, operators and types, which count that they are run. A search path that
/// has `public` first finds them before PostgreSQL's own.
const TWINS: &str = r#"
CREATE SEQUENCE public.hijacked;
DO $make$
DECLARE f record; twin text;
BEGIN
    FOR f IN
        SELECT proname, pg_get_function_identity_arguments(oid) AS arguments, pg_get_function_result(oid) AS result
        FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND proname IN (
            'array_length', 'ascii', 'cardinality', 'clock_timestamp', 'concat_ws', 'current_setting', 'encode', 'format',
            'format_type', 'has_database_privilege', 'has_function_privilege', 'has_schema_privilege',
            'has_table_privilege', 'host', 'jsonb_each', 'jsonb_object_keys', 'length', 'make_interval', 'now',
            'pg_advisory_lock', 'pg_advisory_xact_lock', 'pg_backend_pid', 'pg_get_expr', 'pg_has_role',
            'pg_relation_size', 'pg_terminate_backend', 'pg_try_advisory_lock', 'quote_ident', 'row_security_active',
            'set_config', 'starts_with', 'substr', 'to_char', 'to_jsonb', 'to_regclass', 'to_regprocedure',
            'to_timestamp', 'unnest')
    LOOP
        CONTINUE WHEN f.result ~ '^(SETOF|TABLE)';
        twin := format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS '
            '$f$ BEGIN PERFORM pg_catalog.nextval(''public.hijacked''); RETURN NULL; END $f$', f.proname, f.arguments, f.result);
        BEGIN EXECUTE twin; EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    FOR f IN
        SELECT o.oid, oprname, format_type(oprleft, NULL) AS l, format_type(oprright, NULL) AS r,
            format_type(oprresult, NULL) AS result
        FROM pg_operator o WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft <> 0 AND oprcode <> 0
            AND oprname IN ('=', '<>', '<', '>', '<=', '>=', '||', '->', '->>', '~', '+', '-', '<<', '|', '&&')
    LOOP
        twin := format('CREATE FUNCTION public.operator_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS '
            '$f$ BEGIN PERFORM pg_catalog.nextval(''public.hijacked''); RETURN NULL; END $f$', f.oid, f.l, f.r, f.result);
        BEGIN
            EXECUTE twin;
            EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.operator_%s)',
                f.oprname, f.l, f.r, f.oid);
        EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
END $make$;
CREATE FUNCTION public.hijack() RETURNS boolean LANGUAGE sql AS $f$ SELECT pg_catalog.nextval('public.hijacked') > 0 $f$;
CREATE DOMAIN public.text AS pg_catalog.text CHECK (public.hijack());
CREATE DOMAIN public.jsonb AS pg_catalog.jsonb CHECK (public.hijack());
CREATE DOMAIN public.bytea AS pg_catalog.bytea CHECK (public.hijack());
CREATE DOMAIN public.uuid AS pg_catalog.uuid CHECK (public.hijack());
CREATE VIEW public.pg_class AS SELECT c.* FROM pg_catalog.pg_class c WHERE public.hijack();
CREATE VIEW public.pg_namespace AS SELECT n.* FROM pg_catalog.pg_namespace n WHERE public.hijack();
CREATE VIEW public.pg_settings AS SELECT s.* FROM pg_catalog.pg_settings s WHERE public.hijack()"#;

/// These are better matches than PostgreSQL's own even where `public` comes last, as it does by default.
const BETTER: &str = r#"
CREATE FUNCTION public.count_step(bigint, timestamptz) RETURNS bigint LANGUAGE sql AS $f$ SELECT pg_catalog.nextval('public.hijacked') $f$;
CREATE AGGREGATE public.count(timestamptz) (SFUNC = public.count_step, STYPE = bigint, INITCOND = '0');
CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE sql AS $f$ SELECT pg_catalog.nextval('public.hijacked')::text $f$;
CREATE FUNCTION public.same(oid, regclass) RETURNS boolean LANGUAGE sql AS $f$ SELECT pg_catalog.nextval('public.hijacked') > 0 $f$;
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = public.same);
CREATE FUNCTION public.make_interval(secs integer) RETURNS interval LANGUAGE sql AS
    $f$ SELECT pg_catalog.make_interval(secs => pg_catalog.nextval('public.hijacked')::double precision) $f$"#;

/// Whether anything of these has run.
async fn is_hijacked(place: &Place) -> bool {
    let asked = place.postgres().await.query_one("SELECT is_called FROM public.hijacked", &[]).await;
    asked.unwrap().get(0)
}

/// Every command, by a URI that asks for `public` first: its functions, operators, casts and views are there,
/// and none runs.
#[tokio::test]
async fn functions_operators_and_types_in_public_never_run() {
    let place = Place::shared("hostile").await;
    place.postgres().await.batch_execute(TWINS).await.unwrap();
    let mut home = Home::new(&place);
    home.set("target.uri", format!("{}?options=-c%20search_path%3Dpublic,pg_catalog", place.postgres_uri));
    home.set("mapping.max_dead_letters", 5);
    place.add_sentinels().await;
    let things = place.collection("things");
    let thing = |id: i32| doc! { "_id": id, "n": id, "name": "a", "list": [{ "n": id }], "tags": ["a"] };
    things.insert_many((0..50).map(thing)).await.unwrap();
    home.finish(&["check"]).await.with_code(0);
    home.finish(&["plan"]).await.with_code(0);
    let mut docrow = home.run();
    place.settle(&mut docrow).await;
    for id in 0..10 {
        let change = doc! { "$set": { "n": 100 + id, "new": "field" }, "$push": { "list": { "n": 1 } } };
        things.update_one(doc! { "_id": id }, change).await.unwrap();
        things.delete_one(doc! { "_id": 20 + id }).await.unwrap();
    }
    things.insert_one(doc! { "_id": "x".repeat(3_000), "n": 1 }).await.unwrap();
    place.settle(&mut docrow).await;
    home.finish(&["status"]).await.with_code(0);
    assert!(!is_hijacked(&place).await, "{}", docrow.log());
    place.postgres().await.batch_execute("UPDATE things SET n = -1 WHERE _id = '3'").await.unwrap();
    for (arguments, code) in [
        (["verify", "--repair", "--allow-dead-letters"].as_slice(), 0),
        (&["dead-letters", "list"], 0),
        (&["dead-letters", "retry", "--all"], 1),
        (&["dead-letters", "discard", "--all"], 0),
        (&["resync", &format!("{}.things", place.name)], 0),
    ] {
        let ended = home.finish(arguments).await;
        assert!(!is_hijacked(&place).await, "{arguments:?}: {}{}", ended.out, ended.log);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}{}", ended.out, ended.log);
    }
    place.settle(&mut docrow).await;
    docrow.stop().await;
    assert!(!is_hijacked(&place).await);
}

/// "An aggregate `public.count(timestamptz)` ran as superuser after `docrow status`."
#[tokio::test]
async fn a_better_match_in_public_is_not_found() {
    let place = Place::shared("better_match").await;
    place.collection("things").insert_many((0..20).map(|id| doc! { "_id": id, "n": [1] })).await.unwrap();
    let home = Home::new(&place);
    home.backfill().await;
    let postgres = place.postgres().await;
    postgres.batch_execute(&format!("CREATE SEQUENCE public.hijacked; {BETTER}")).await.unwrap();
    for arguments in [["status"].as_slice(), &["check"], &["verify"], &["plan"], &["backfill"]] {
        home.finish(arguments).await.with_code(0);
        assert!(!is_hijacked(&place).await, "{arguments:?}");
    }
}

/// What docrow leaves in the database says for itself where it looks; an earlier docrow's is mended.
#[tokio::test]
async fn the_function_of_docrow_has_a_search_path_of_its_own() {
    let place = Place::shared("pinned_function").await;
    let home = Home::new(&place);
    place.collection("things").insert_one(doc! { "_id": 1 }).await.unwrap();
    home.backfill().await;
    let pinned = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'docrow'::regnamespace \
        AND 'search_path=pg_catalog, pg_temp' = ANY (proconfig)";
    assert_eq!(place.number(pinned).await, Some(1));
    let earlier = "ALTER FUNCTION docrow.enter RESET ALL; ALTER TABLE docrow.chunks DROP COLUMN replaces";
    place.postgres().await.batch_execute(earlier).await.unwrap();
    let target = Target::parse(&place.postgres_uri, "public", "docrow").unwrap();
    docrow::sink::metadata::schema::create(&mut target.connect().await.unwrap(), "public").await.unwrap();
    assert_eq!(place.number(pinned).await, Some(1));
}

/// A trigger of a user's relied on the search path: docrow says so, and goes on once it does not.
#[tokio::test]
async fn a_trigger_that_names_no_schema_is_told_apart_from_a_dropped_table() {
    let place = Place::shared("trigger_path").await;
    place.add_sentinels().await;
    let home = Home::new(&place);
    let mut running = home.run();
    place.settle(&mut running).await;
    let audit = "CREATE TABLE audit (id bigint); CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN INSERT INTO audit VALUES (NEW._id); RETURN NEW; END $$; \
        CREATE TRIGGER audit BEFORE UPDATE ON sentinels FOR EACH ROW EXECUTE FUNCTION audit()";
    place.postgres().await.batch_execute(audit).await.unwrap();
    place.collection("sentinels").update_one(doc! { "_id": 1 }, doc! { "$inc": { "n": 1 } }).await.unwrap();
    let ended = running.ended().await.with_code(4);
    assert!(
        ended.error().starts_with("[DRW-3211]") && ended.log.contains("SET search_path"),
        "{}",
        ended.log
    );
    let mend = "ALTER FUNCTION audit() SET search_path = public";
    place.postgres().await.batch_execute(mend).await.unwrap();
    let mut running = home.run();
    place.settle(&mut running).await;
    assert!(place.number("SELECT count(*) FROM audit").await > Some(0));
    place.assert_same(&home).await;
    running.stop().await.quiet();
}
