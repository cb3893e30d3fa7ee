//! The version of a mapping after the one in force.

use super::active::ActiveMapping;
use crate::{
    error::{Error, Result},
    schema::{MappingSpec, additions},
    shown,
};

/// How many new fields the log names.
const LISTED: usize = 20;

/// The version after `in_force`, and the fields for which it adds places.
pub(super) fn next_version(
    in_force: &ActiveMapping,
    spec: MappingSpec,
) -> Result<(ActiveMapping, Vec<String>)> {
    let more = |_| Error::bug("evolve a mapping: it does more than add");
    let fields = additions(&in_force.spec, &spec).map_err(more)?.fields;
    let next = in_force.next(spec, true).map_err(more)?;
    Ok((next, fields.iter().map(ToString::to_string).collect()))
}

/// Names for the log; only some of them, if there are many.
pub(super) fn listed(fields: &[String]) -> String {
    let names: Vec<_> = fields.iter().take(LISTED).map(|name| shown::name(name)).collect();
    let more = fields.len().saturating_sub(LISTED);
    let more = if more == 0 { String::new() } else { format!(", and {more} more") };
    format!("{}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_names_some_fields_on_one_line() {
        let fields = |count| (0..count).map(|n| format!("é\n{n}")).collect::<Vec<_>>();
        assert_eq!(listed(&fields(2)), r"é\u000a0, é\u000a1");
        assert!(listed(&fields(LISTED + 3)).ends_with(", and 3 more"));
    }
}
