//! Rows that tell the gold query from its neighbours.
//!
//! First come rows that the query asks for (`witnesses`), joined as it joins them, and for each of its conditions
//! copies that just miss it; then rows drawn at random from the same values. All of it is a function of a seed.

use std::collections::{BTreeMap, HashMap};

use super::design::{Design, DisjointSets, Kind, Role};
use super::pool::{Pool, Profile, date, pool, word};
use super::query::{Node, Query};
use super::values::{Comparison, Value};
use crate::statistics::random::SplitMix64;

/// Rows by table.
pub(super) type Content = Vec<Vec<Vec<Value>>>;

/// Rows of a table beyond which no more are added for a group's size.
const MOST_ROWS: usize = 120;
/// Group sizes that are reached.
const LARGEST_GROUP: i64 = 40;

/// The rows of a database.
pub(super) fn content(query: &Query, design: &Design, profile: Profile, seed: u64) -> Content {
    let mut filler = Filler::new(query, design, profile, seed);
    filler.add_witnesses();
    filler.add_random_rows();
    filler.fill_keys();
    filler.fill_others()
}

struct Filler<'a> {
    query: &'a Query,
    design: &'a Design,
    profile: Profile,
    random: SplitMix64,
    pools: Vec<Pool>,
    /// By table; a value that is not chosen yet is `None`.
    tables: Vec<Vec<Vec<Option<Value>>>>,
    /// By table and key, the row that has it.
    row_of_key: HashMap<(usize, String), usize>,
    /// By domain, values that rows are ordered by and that no row has yet: ties would leave the answer open.
    unique: Vec<Vec<Value>>,
    /// All columns of the query's tables, numbered.
    node_numbers: BTreeMap<Node, usize>,
}

impl<'a> Filler<'a> {
    fn new(query: &'a Query, design: &'a Design, profile: Profile, seed: u64) -> Self {
        let mut random = SplitMix64::new(seed);
        let pools = design
            .domains
            .iter()
            .enumerate()
            .map(|(number, domain)| pool(domain, number, profile, &mut random))
            .collect();
        let mut node_numbers = BTreeMap::new();
        for (core, parts) in query.cores.iter().enumerate() {
            for (instance, part) in parts.instances.iter().enumerate() {
                for column in 0..design.columns[part.table].len() {
                    let next = node_numbers.len();
                    node_numbers.insert(
                        Node {
                            core,
                            instance,
                            column,
                        },
                        next,
                    );
                }
            }
        }
        Self {
            query,
            design,
            profile,
            random,
            pools,
            tables: vec![Vec::new(); design.columns.len()],
            row_of_key: HashMap::new(),
            unique: vec![Vec::new(); design.domains.len()],
            node_numbers,
        }
    }

    /// True once in `of` times.
    fn happens(&mut self, of: usize) -> bool {
        self.random.below(of) == 0
    }

    fn pick<T: Clone>(&mut self, values: &[T]) -> Option<T> {
        (!values.is_empty()).then(|| values[self.random.below(values.len())].clone())
    }

    /// The first values more often than the last.
    fn pick_skewed(&mut self, values: &[Value]) -> Option<Value> {
        if values.is_empty() {
            return None;
        }
        let below = 1 + self.random.below(values.len());
        Some(values[self.random.below(below)].clone())
    }

    fn add_witnesses(&mut self) {
        let conditions = self.query.conditions.len();
        let start = self.random.below(50);
        for round in start..start + self.profile.witnesses {
            let whole = self.assemble(None, &HashMap::new());
            for missed in 0..conditions {
                self.assemble(Some((missed, round)), &HashMap::new());
            }
            for core in 0..self.query.cores.len() {
                self.repeat_group(core, &whole);
            }
        }
    }

    /// Columns that are equal in the rows that the query asks for.
    fn equal_columns(&mut self) -> DisjointSets {
        let mut sets = DisjointSets::new(self.node_numbers.len());
        for (a, b) in &self.query.links {
            sets.join(self.node_numbers[a], self.node_numbers[b]);
        }
        for core in &self.query.cores {
            // Half of the time both sides of INTERSECT, EXCEPT or UNION have the same row.
            if let Some(sibling) = core.sibling.filter(|_| self.happens(2)) {
                let pairs = core
                    .selected
                    .iter()
                    .zip(&self.query.cores[sibling].selected);
                pairs.for_each(|(a, b)| sets.join(self.node_numbers[a], self.node_numbers[b]));
            }
        }
        sets
    }

    /// Adds a row to each table that the query reads, so that they join and meet all conditions but `missed`, which
    /// they miss in another way each round. Columns of `fixed` have those values. Returns the values that were chosen.
    fn assemble(
        &mut self,
        missed: Option<(usize, usize)>,
        fixed: &HashMap<Node, Value>,
    ) -> HashMap<Node, Value> {
        let (query, design) = (self.query, self.design);
        let sets = self.equal_columns();
        let mut members: BTreeMap<usize, Vec<Node>> = BTreeMap::new();
        for (&node, &number) in &self.node_numbers {
            members.entry(sets.root(number)).or_default().push(node);
        }
        let mut chosen: HashMap<Node, Value> = HashMap::new();
        for nodes in members.values() {
            let given = nodes.iter().find_map(|node| fixed.get(node).cloned());
            let asked: Vec<(bool, &Comparison)> = query
                .conditions
                .iter()
                .enumerate()
                .filter(|(_, (node, _))| nodes.contains(node))
                .map(|(i, (_, comparison))| {
                    (missed.is_none_or(|(missed, _)| missed != i), comparison)
                })
                .collect();
            let is_joined = nodes.len() > 1;
            let is_key = nodes
                .iter()
                .any(|&node| design.at(query, node).role == Role::Key);
            if given.is_none() && asked.is_empty() && !is_joined && !is_key {
                continue; // drawn with the rest
            }
            let domain = design.at(query, nodes[0]).domain;
            let round = missed.filter(|_| asked.iter().any(|(wanted, _)| !wanted));
            let round = round.map(|(_, round)| round);
            let value = given.unwrap_or_else(|| self.choose(domain, &asked, is_key, round));
            chosen.extend(nodes.iter().map(|&node| (node, value.clone())));
        }
        for (core, parts) in query.cores.iter().enumerate() {
            for (instance, part) in parts.instances.iter().enumerate() {
                let assigned: BTreeMap<usize, Value> = (0..design.columns[part.table].len())
                    .filter_map(|column| {
                        let value = chosen.get(&Node {
                            core,
                            instance,
                            column,
                        })?;
                        Some((column, value.clone()))
                    })
                    .collect();
                self.put_row(part.table, &assigned);
            }
        }
        chosen
    }

    /// A value of `domain` that meets as many of the conditions as possible; `false` stands for one to be missed, by a
    /// value at its edge that is another each `round`.
    fn choose(
        &mut self,
        domain: usize,
        asked: &[(bool, &Comparison)],
        is_key: bool,
        round: Option<usize>,
    ) -> Value {
        let has_keys = is_key || !self.pools[domain].keys.is_empty();
        if asked.is_empty() && has_keys {
            // Mostly a new row; sometimes one that is there joins with another.
            let known = self.pools[domain].keys.clone();
            return match self.pick(&known).filter(|_| self.happens(3)) {
                Some(key) => key,
                None => self.new_key(domain),
            };
        }
        let met = |value: &Value| {
            let is_met =
                |(wanted, comparison): &&(bool, &Comparison)| comparison.accepts(value) == *wanted;
            asked.iter().filter(is_met).count()
        };
        let mut candidates = self.pools[domain].edges.clone();
        candidates.retain(|value| met(value) == asked.len());
        if let (Some(round), false) = (round, candidates.is_empty()) {
            return candidates[round % candidates.len()].clone();
        }
        candidates = self.pools[domain].edges.clone();
        candidates.extend(self.pools[domain].others.iter().cloned());
        if has_keys {
            candidates.push(self.new_key(domain));
        }
        let most = candidates.iter().map(met).max().unwrap_or(0);
        candidates.retain(|value| met(value) == most);
        self.pick(&candidates).unwrap_or(Value::Integer(1))
    }

    /// A key that no row has yet.
    fn new_key(&mut self, domain: usize) -> Value {
        let kind = self.design.domains[domain].kind;
        loop {
            let pool = &mut self.pools[domain];
            pool.next_key += 1;
            let key = match kind {
                Kind::Text => Value::Text(word(pool.next_key + 13 * domain)),
                Kind::Date => date(pool.next_key * 17 + domain),
                Kind::Integer | Kind::Real | Kind::Year => Value::Integer(pool.next_key as i64),
            };
            if !pool.keys.contains(&key) {
                return key;
            }
        }
    }

    /// Adds a row, or completes the row that has its key.
    fn put_row(&mut self, table: usize, assigned: &BTreeMap<usize, Value>) {
        let columns = &self.design.columns[table];
        let key = self.design.key(table);
        let key_value = key.and_then(|key| assigned.get(&key));
        let known = key_value.and_then(|value| self.row_of_key.get(&(table, format!("{value:?}"))));
        let row = match known {
            Some(&row) => row,
            None => {
                self.tables[table].push(vec![None; columns.len()]);
                self.tables[table].len() - 1
            }
        };
        for (&column, value) in assigned {
            self.tables[table][row][column] = Some(value.clone());
            if key == Some(column) {
                self.note_key(table, columns[column].domain, value, row);
            }
        }
    }

    fn note_key(&mut self, table: usize, domain: usize, value: &Value, row: usize) {
        let known = self.row_of_key.insert((table, format!("{value:?}")), row);
        if known.is_none() && !self.pools[domain].keys.contains(value) {
            self.pools[domain].keys.push(value.clone());
        }
    }

    /// Rows of one group, about as many as the `HAVING` of `core` asks for; `whole` has values of such rows.
    fn repeat_group(&mut self, core: usize, whole: &HashMap<Node, Value>) {
        let query = self.query;
        let Some((_, size)) = query.cores[core].group_size else {
            return;
        };
        let size = size.clamp(1, LARGEST_GROUP) as usize - 1 + self.random.below(3);
        let parts = &query.cores[core];
        let mut fixed: HashMap<Node, Value> = HashMap::new();
        for node in &parts.grouped {
            let is_key = self.design.at(query, *node).role == Role::Key;
            // A key's rows cannot be many: its references can.
            if is_key && parts.instances.len() == 1 {
                continue;
            }
            let domain = self.design.at(query, *node).domain;
            let value = match whole.get(node) {
                Some(value) => value.clone(),
                None => self.choose(domain, &[], is_key, None),
            };
            fixed.insert(*node, value);
            let has_key = self.design.key(query.table(*node)).is_some();
            if has_key && parts.instances.len() > 1 {
                let same_row = whole
                    .iter()
                    .filter(|(other, _)| other.core == core && other.instance == node.instance);
                fixed.extend(same_row.map(|(node, value)| (*node, value.clone())));
            }
        }
        for _ in 0..size {
            if self.tables.iter().any(|rows| rows.len() >= MOST_ROWS) {
                break;
            }
            self.assemble(None, &fixed);
        }
    }

    fn add_random_rows(&mut self) {
        let (fewest, most) = self.profile.rows;
        for table in 0..self.tables.len() {
            let count = fewest + self.random.below(most - fewest + 1);
            let columns = self.design.columns[table].len();
            self.tables[table].extend(vec![vec![None; columns]; count]);
        }
    }

    /// Keys first: references need them.
    fn fill_keys(&mut self) {
        let mut keyed_domains: Vec<usize> = Vec::new();
        for table in 0..self.tables.len() {
            let Some(key) = self.design.key(table) else {
                continue;
            };
            let domain = self.design.columns[table][key].domain;
            for row in 0..self.tables[table].len() {
                if self.tables[table][row][key].is_some() {
                    continue;
                }
                // A second table with the same key mostly has rows of the first: one to one.
                let shared: Vec<Value> = if keyed_domains.contains(&domain) {
                    let pool = &self.pools[domain].keys;
                    let is_free = |value: &&Value| {
                        !self.row_of_key.contains_key(&(table, format!("{value:?}")))
                    };
                    pool.iter().filter(is_free).cloned().collect()
                } else {
                    Vec::new()
                };
                let value = match self.pick(&shared) {
                    Some(value) => value,
                    None => self.new_key(domain),
                };
                self.note_key(table, domain, &value, row);
                self.tables[table][row][key] = Some(value);
            }
            keyed_domains.push(domain);
        }
    }

    fn fill_others(mut self) -> Content {
        let mut tables = std::mem::take(&mut self.tables);
        for (table, rows) in tables.iter_mut().enumerate() {
            for row in 0..rows.len() {
                let copied = if row > 0 && self.happens(6) {
                    Some(self.random.below(row))
                } else {
                    None
                };
                for column in 0..rows[row].len() {
                    if rows[row][column].is_some() {
                        continue;
                    }
                    let design = self.design.columns[table][column];
                    let is_ordered = self.design.domains[design.domain].is_ordered;
                    let value = match copied {
                        // Rows that differ in nothing but their key: DISTINCT matters.
                        Some(other) if design.role == Role::Plain && !is_ordered => {
                            rows[other][column].clone().unwrap_or(Value::Null)
                        }
                        _ => self.draw(design.domain, design.role),
                    };
                    rows[row][column] = Some(value);
                }
            }
        }
        let finished = |row: Vec<Option<Value>>| {
            row.into_iter()
                .map(|value| value.unwrap_or(Value::Null))
                .collect()
        };
        tables
            .into_iter()
            .map(|rows| rows.into_iter().map(finished).collect())
            .collect()
    }

    /// A value at random.
    fn draw(&mut self, domain: usize, role: Role) -> Value {
        let design = &self.design.domains[domain];
        if role == Role::Reference {
            let keys = std::mem::take(&mut self.pools[domain].keys);
            let value = self.pick_skewed(&keys);
            self.pools[domain].keys = keys;
            return value.unwrap_or(Value::Integer(1));
        }
        let is_null = (design.may_be_null && self.happens(4))
            || (self.profile.has_nulls && !design.is_ordered && self.happens(12));
        if is_null {
            return Value::Null;
        }
        let is_ordered = design.is_ordered;
        let takes_edge = self.random.below(if is_ordered { 20 } else { 5 }) < 2;
        let pool = &self.pools[domain];
        let takes_edge = takes_edge && !pool.edges.is_empty();
        if is_ordered && !takes_edge {
            if self.unique[domain].is_empty() {
                self.unique[domain] = pool.others.clone();
            }
            let at = self.random.below(self.unique[domain].len());
            return self.unique[domain].swap_remove(at);
        }
        let values = if takes_edge {
            pool.edges.clone()
        } else {
            pool.others.clone()
        };
        let value = self.pick_skewed(&values);
        value.unwrap_or(Value::Null)
    }
}
