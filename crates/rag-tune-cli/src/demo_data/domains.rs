//! The domains that are built into the program, read from the TOML files in `domains/`.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::schema::{Domain, Role, Table};

const FILES: [(&str, &str); 6] = [
    ("services.toml", include_str!("domains/services.toml")),
    ("transport.toml", include_str!("domains/transport.toml")),
    ("food.toml", include_str!("domains/food.toml")),
    ("culture.toml", include_str!("domains/culture.toml")),
    ("outdoors.toml", include_str!("domains/outdoors.toml")),
    ("trade.toml", include_str!("domains/trade.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DomainFile {
    #[serde(rename = "domain")]
    domains: Vec<Domain>,
}

/// All domains, in the order of the files.
///
/// # Errors
/// If a built-in file does not parse or contradicts itself.
pub fn all() -> Result<Vec<Domain>> {
    let mut domains = Vec::new();
    for (name, text) in FILES {
        let file: DomainFile =
            toml::from_str(text).with_context(|| format!("cannot read built-in `{name}`"))?;
        for domain in &file.domains {
            check(domain).with_context(|| format!("domain `{}` in `{name}`", domain.id))?;
        }
        domains.extend(file.domains);
    }
    Ok(domains)
}

fn check(domain: &Domain) -> Result<()> {
    for (index, table) in domain.tables.iter().enumerate() {
        ensure!(
            table.row_count().is_some(),
            "table `{}` has no `rows`",
            table.name
        );
        ensure!(
            table.key() == Some(0),
            "the first column of `{}` must be its key",
            table.name
        );
        for parent in parents(table) {
            let before = domain.tables[..index]
                .iter()
                .any(|other| other.name == parent);
            ensure!(
                before,
                "`{}` refers to `{parent}`, which is not above it",
                table.name
            );
        }
    }
    Ok(())
}

fn parents(table: &Table) -> impl Iterator<Item = &str> {
    table
        .columns
        .iter()
        .filter_map(|column| match &column.role {
            Role::Ref(reference) => Some(reference.table.as_str()),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::schema::Split;
    use super::*;

    #[test]
    fn there_are_24_training_and_6_validation_domains_with_different_names() {
        let domains = all().unwrap();
        let count = |split| {
            domains
                .iter()
                .filter(|domain| domain.split == split)
                .count()
        };
        assert_eq!((count(Split::Train), count(Split::Validation)), (24, 6));
        let names: HashSet<_> = domains.iter().map(|domain| &domain.id).collect();
        assert_eq!(names.len(), 30);
    }

    #[test]
    fn tables_are_as_many_and_as_long_as_promised() {
        for domain in all().unwrap() {
            assert!((2..=4).contains(&domain.tables.len()), "{}", domain.id);
            for table in &domain.tables {
                let rows = table.row_count().unwrap();
                assert!(
                    (7..=60).contains(&rows),
                    "{}.{}: {rows}",
                    domain.id,
                    table.name
                );
            }
        }
    }
}
