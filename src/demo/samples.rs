//! Real documents, compiled in from `testdata/`; its README names their sources.
//!
//! JSON has no ids and one kind of number. A country's `_id` is its code, a movie's is an ObjectId derived
//! from its line. A whole number becomes an int32, or an int64 if it is large or negative; any other a
//! double.

use mongodb::{
    Database,
    bson::{Bson, Document, doc, oid::ObjectId},
};

use crate::error::{Error, Kind, Result};

/// Documents and their collection.
#[derive(Clone, Debug)]
pub struct SampleCollection {
    /// The collection's name.
    pub collection: &'static str,
    /// Its documents.
    pub documents: Vec<Document>,
}

/// The 1,067 movies and the 250 countries.
pub fn samples() -> Result<[SampleCollection; 2]> {
    Ok([
        sample("movies", include_str!("../../testdata/movies.jsonl"), |line, _| {
            Some(object_id(line).into())
        })?,
        sample("countries", include_str!("../../testdata/countries.jsonl"), |_, country| {
            country.get("cca3").cloned()
        })?,
    ])
}

/// Inserts all samples into `database`.
pub async fn load(database: &Database) -> Result<()> {
    for SampleCollection { collection, documents } in samples()? {
        let inserted = database.collection::<Document>(collection).insert_many(&documents).await;
        inserted.map_err(|e| Error::caused(Kind::SourceAway, format!("insert the {collection}"), e))?;
    }
    Ok(())
}

fn sample(
    collection: &'static str,
    lines: &str,
    id: fn(u32, &Document) -> Option<Bson>,
) -> Result<SampleCollection> {
    let malformed =
        |line| Error::bug(format!("read testdata: line {line} of the {collection} is not as expected"));
    let mut documents = Vec::new();
    for (number, line) in (1..).zip(lines.lines()) {
        let fields: Document = serde_json::from_str(line).map_err(|_| malformed(number))?;
        let mut document = doc! { "_id": id(number, &fields).ok_or_else(|| malformed(number))? };
        document.extend(fields);
        documents.push(document);
    }
    Ok(SampleCollection { collection, documents })
}

/// The ObjectId of line `number`: created on 2026-01-01, one per line.
fn object_id(number: u32) -> ObjectId {
    const NEW_YEAR: u32 = 1_767_225_600;
    let [n0, n1, n2, n3] = number.to_be_bytes();
    let [t0, t1, t2, t3] = NEW_YEAR.to_be_bytes();
    ObjectId::from_bytes([t0, t1, t2, t3, 0, 0, 0, 0, n0, n1, n2, n3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_all_there_with_ids_and_numbers_of_their_kind() {
        let [movies, countries] = samples().unwrap();
        assert_eq!((movies.documents.len(), countries.documents.len()), (1067, 250));
        let first = &movies.documents[0];
        assert_eq!(first.get_object_id("_id").unwrap().to_hex(), "6955b9000000000000000001");
        assert_eq!(first.get("US Gross"), Some(&Bson::Int32(10_876)));
        assert_eq!(first.get("IMDB Rating"), Some(&Bson::Double(6.9)));
        assert_eq!(first.get("Source"), Some(&Bson::Null));
        assert!(
            movies.documents.iter().any(|movie| matches!(movie.get("Worldwide Gross"), Some(Bson::Int64(_))))
        );
        assert_eq!(countries.documents[0].get_str("_id").unwrap(), "ABW");
    }
}
