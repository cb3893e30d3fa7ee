//! The tables, and scans of their rows.

use std::collections::HashMap;

use async_trait::async_trait;

use super::{
    super::{
        columns::in_extra,
        mongo::name_of,
        postgres::{DatabaseContents, MappedCollection},
        world::SimulatedWorld,
    },
    connection::SimulatedConnection,
    rows::SimulatedPages,
};
use crate::{
    error::{Error, Result},
    mapping::{self, Replacement},
    model::table::Table,
    pipeline::ports::{KeyPages, TableSession},
    sink::{
        metadata::{
            mapping_versions::Mapping,
            misfits::{MisfitCount, Misfits},
        },
        rows::scan_extra::WantedDocuments,
    },
};

#[async_trait]
impl TableSession for SimulatedConnection {
    async fn as_wanted(&self, wanted: &[(&str, &[Table])]) -> Result<Vec<bool>> {
        let is_wanted = |pg: &DatabaseContents, (collection, tables): &(&str, &[Table])| {
            pg.mapped.get(&name_of(collection)).is_some_and(|mapped| mapped.tables == *tables)
        };
        self.query(|_, pg| wanted.iter().map(|wanted| is_wanted(pg, wanted)).collect()).await
    }

    async fn create_tables(&mut self, wanted: &[(&Mapping, &[Table])]) -> Result<bool> {
        let create = |world: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            if wanted.iter().any(|(record, _)| pg.mapped.contains_key(&name_of(&record.collection))) {
                return Ok(false);
            }
            for (record, tables) in wanted {
                let (record, tables) = (Mapping::clone(record), tables.to_vec());
                let (name, mapping) = (name_of(&record.collection), world.compile(&record.text)?);
                pg.mapped.insert(name, MappedCollection { record, tables, mapping });
            }
            Ok(true)
        };
        self.change("new collections have their mappings", create).await
    }

    async fn change_tables(&mut self, record: &Mapping, tables: &[Table]) -> Result<()> {
        self.lock_table()?;
        let change = |world: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            let name = name_of(&record.collection);
            let mut record = record.clone();
            record.stopped = pg.mapped.get(&name).and_then(|before| before.record.stopped.clone());
            let mapping = world.compile(&record.text)?;
            if pg.mapped.get(&name).is_none_or(|before| before.record.version <= record.version) {
                pg.mapped.insert(name, MappedCollection { record, tables: tables.to_vec(), mapping });
            }
            Ok(())
        };
        self.change(&format!("{} has version {} of its mapping", record.collection, record.version), change)
            .await
    }

    async fn relations(&self) -> Result<Vec<String>> {
        let tables = |pg: &DatabaseContents| {
            let tables = pg.mapped.values().flat_map(|mapped| &mapped.tables);
            tables.map(|table| table.name.clone()).collect()
        };
        self.query(|_, pg| tables(pg)).await
    }

    async fn columns(&self, tables: &[Table]) -> Result<Vec<(String, String)>> {
        let of = |pg: &DatabaseContents| {
            let there = pg.mapped.values().flat_map(|mapped| &mapped.tables);
            let there = there.filter(|there| tables.iter().any(|table| table.name == there.name));
            let columns = |table: &Table| {
                let name = table.name.clone();
                table.columns.iter().map(|column| (name.clone(), column.name.clone())).collect::<Vec<_>>()
            };
            there.flat_map(columns).collect()
        };
        self.query(|_, pg| of(pg)).await
    }

    async fn has_earlier_keys(&self, _: &Table) -> Result<bool> {
        self.wait().await.map(|()| false)
    }

    async fn keys_missing(&self, tables: &[Table]) -> Result<Vec<Table>> {
        let missing = |pg: &DatabaseContents| {
            tables.iter().filter(|table| !pg.keyed.contains(&table.name)).cloned().collect()
        };
        self.query(|_, pg| missing(pg)).await
    }

    async fn build_key(&mut self, table: &Table) -> Result<()> {
        self.lock_table()?;
        let build = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            pg.keyed.insert(table.name.clone());
            Ok(())
        };
        self.change(&format!("{} has its primary key", table.name), build).await
    }

    async fn add_foreign_keys(&mut self, _: &[Table]) -> Result<()> {
        self.wait().await
    }

    async fn empty_tables(&mut self, collection: &str) -> Result<()> {
        self.lock_table()?;
        let name = name_of(collection);
        let empty = |_: &mut SimulatedWorld, pg: &mut DatabaseContents| {
            pg.rows.retain(|(of, _), _| *of != name);
            pg.letters.retain(|(of, _), _| *of != name);
            Ok(())
        };
        self.change(&format!("c{name} is emptied"), empty).await
    }

    async fn drop_tables(&mut self, _: &str) -> Result<()> {
        Err(Error::bug("simulation: no table is dropped"))
    }

    async fn irreplaceable(&self, _: &str, _: &[Replacement]) -> Result<Option<(Vec<Replacement>, Error)>> {
        self.wait().await.map(|()| None)
    }

    async fn replace_columns(&mut self, _: &Mapping, _: &[Replacement]) -> Result<()> {
        Err(Error::bug("simulation: no column becomes wider"))
    }

    async fn make_way(&mut self, error: Error, _: &[Table]) -> Result<Error> {
        self.wait().await.map(|()| error)
    }

    async fn scan(&mut self, wanted: &WantedDocuments) -> Result<Box<dyn KeyPages + '_>> {
        let root = wanted.root.as_ref().ok_or_else(|| Error::bug("simulation: a scan without a table"))?;
        let keys = |_: &SimulatedWorld, pg: &DatabaseContents| {
            let name = pg.name_of_table(&root.name)?;
            let rows = pg.rows.iter().filter(|((of, _), _)| *of == name).map(|(_, row)| &row.columns);
            let has_extra = |mapping: &mapping::Mapping, columns: &_| !in_extra(mapping, columns).is_empty();
            let mapping = pg.mapping(name).cloned();
            let found =
                rows.filter(|columns| mapping.as_ref().is_some_and(|mapping| has_extra(mapping, columns)));
            Ok::<_, Error>(
                found.filter_map(|columns| columns.get(&root.columns.first()?.name).cloned()).collect(),
            )
        };
        let keys = self.query(keys).await??;
        Ok(Box::new(SimulatedPages { link: self, keys }))
    }

    async fn count_misfits(&self, _: &mapping::Mapping) -> Result<Vec<Misfits>> {
        self.wait().await.map(|()| Vec::new())
    }

    async fn fits_double(&self, _: &str, _: &str) -> Result<bool> {
        self.wait().await.map(|()| false)
    }

    async fn misfits(&self) -> Result<HashMap<String, MisfitCount>> {
        self.wait().await.map(|()| HashMap::new())
    }

    async fn store_misfits(&mut self, _: &str, _: &[Misfits]) -> Result<()> {
        self.wait().await
    }
}
