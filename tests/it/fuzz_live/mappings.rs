//! Mapping files that grow: each version includes the previous one. Pure.

/// Of the collection with many documents: a column appears.
pub(super) fn big(database: &str, version: usize) -> String {
    let mut columns = vec!["a = { path = 'a', type = 'bigint' }", "n = { path = 'n', type = 'bigint' }"];
    if version >= 1 {
        columns.push("x = { path = 'x', type = 'text' }");
    }
    if version >= 2 {
        columns.push("grown = { path = 'grown', type = 'text' }");
    }
    file(database, "big", "bigint", &columns, &[])
}

/// Of a collection with documents of all kinds: columns, tables, a wider type.
pub(super) fn people(database: &str, key: &str, version: usize) -> String {
    let mut columns = vec!["n = { path = 'n', type = 'bigint' }", "name = { path = 'name', type = 'text' }"];
    let mut tables = vec![];
    if version >= 1 {
        columns.extend([
            "total = { path = 'total', type = 'double precision' }",
            "at = { path = 'at', type = 'timestamptz' }",
            "_deleted_at = { path = '_deleted_at', type = 'text' }",
        ]);
    }
    if version >= 2 {
        columns.extend([
            "tags = { path = 'tags', type = 'text[]' }",
            "home_city = { path = 'home.city', type = 'text' }",
        ]);
        tables.push((
            "people_lines",
            "lines[]",
            "['_ord']",
            "sku = { path = 'sku', type = 'text' }, qty = { path = 'qty', type = 'bigint' }",
        ));
    }
    if version >= 3 {
        columns[0] = "n = { path = 'n', type = 'double precision', bson = 'number' }";
        columns.extend([
            "price = { path = 'price', type = 'numeric' }",
            "any = { path = 'any', type = 'jsonb' }",
            "raw = { path = 'raw', type = 'bytea' }",
            "uuid = { path = 'uuid', type = 'uuid' }",
        ]);
        tables.push((
            "people_parts",
            "lines[].parts[]",
            "['_ord', '_ord2']",
            "sku = { path = 'sku', type = 'text' }",
        ));
    }
    file(database, "people", key, &columns, &tables)
}

fn file(
    database: &str,
    name: &str,
    key: &str,
    columns: &[&str],
    tables: &[(&str, &str, &str, &str)],
) -> String {
    let mut text = format!(
        "collection = '{database}.{name}'\noptional = true\ntable = '{name}'\nextra = '_extra'\nkey = {{ column = '_id', type = '{key}' }}\n\
         [columns]\n{}\n",
        columns.join("\n")
    );
    for (table, path, ordinals, columns) in tables {
        text += &format!(
            "[[tables]]\ntable = '{table}'\npath = '{path}'\nparent = '_id'\nordinals = {ordinals}\ncolumns = {{ {columns} }}\n"
        );
    }
    text
}

#[test]
fn every_version_is_a_mapping_file() {
    use docrow::schema::MappingSpec;
    for version in 0..=3 {
        for text in [big("a", version), people("a", "bigint", version), people("a", "text", version)] {
            MappingSpec::parse(&text, "mapping.toml").unwrap();
        }
    }
}
