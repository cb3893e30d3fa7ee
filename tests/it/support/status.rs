//! The output of `docrow status`, and a place to report on.

use mongodb::bson::doc;
use serde_json::Value;

use super::{Home, Place};

impl Home {
    /// The output of `docrow status`. It logs no warning.
    pub(crate) async fn status(&self) -> Value {
        let ended = self.finish(&["status", "--json"]).await.with_code(0).quiet();
        serde_json::from_str(&ended.out).unwrap()
    }
}

/// The status of a collection; null: unknown.
pub(crate) fn of<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut collections = status["collections"].as_array().unwrap().iter();
    let is_it = |c: &&Value| c["name"].as_str().unwrap().ends_with(&format!(".{name}"));
    collections.find(is_it).unwrap_or(&Value::Null)
}

/// Customers and orders, and a docrow that serves.
pub(crate) async fn served(test: &str) -> (Place, Home) {
    let place = Place::shared(test).await;
    for name in ["customers", "orders"] {
        let documents = (0..50).map(|id| doc! { "_id": id, "name": "Ada", "lines": [{ "n": id }] });
        place.collection(name).insert_many(documents).await.unwrap();
    }
    let mut home = Home::new(&place);
    home.serve();
    (place, home)
}
