//! Conditions on amounts and times: above, below and between.

use super::super::schema::{Measure, Order};
use super::super::sql::{Used, literal, plain};
use super::super::wording::{fill, with_article};
use super::asker::Asker;
use super::condition::{Condition, Place, Style};

/// On which side of a bound values lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Greater or later.
    Above,
    /// Smaller or earlier.
    Below,
}

/// Whether the bound itself counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Outside,
    Inside,
}

impl Asker<'_> {
    /// A measure lies above or below a bound that splits the rows.
    pub fn compares(
        &mut self,
        used: &mut Used<'_>,
        place: Place,
        column: usize,
        style: Style,
    ) -> Option<Condition> {
        let side = if self.rng.chance(55) {
            Side::Above
        } else {
            Side::Below
        };
        let percent = self.rng.between(25, 75);
        let (_, order) = self.column(place.table, column).role.measure()?;
        let inside = order == Order::Amount && self.rng.chance(25);
        let edge = if inside { Edge::Inside } else { Edge::Outside };
        self.bounded_at(used, place, column, (side, edge, percent), style)
    }

    /// A measure lies above or below the value that `percent` of its values do not exceed.
    pub fn bounded(
        &mut self,
        used: &mut Used<'_>,
        place: Place,
        column: usize,
        side: Side,
        percent: usize,
    ) -> Option<Condition> {
        self.bounded_at(
            used,
            place,
            column,
            (side, Edge::Outside, percent),
            Style::Free,
        )
    }

    fn bounded_at(
        &mut self,
        used: &mut Used<'_>,
        place: Place,
        column: usize,
        (side, edge, percent): (Side, Edge, usize),
        style: Style,
    ) -> Option<Condition> {
        let description = self.column(place.table, column);
        let (measure, order) = description.role.measure()?;
        let values = self.distinct_values(place.table, column);
        if values.len() < 4 {
            return None;
        }
        let value = values[(values.len() - 1) * percent / 100];
        let own = own_phrase(measure, side, edge);
        let words = match own {
            Some(own) if style == Style::Free && self.rng.chance(70) => own.to_owned(),
            _ => self.bound_words(order, &description.one(), (side, edge), style)?,
        };
        let name = used.column(place.table, column, place.alias);
        Some(Condition {
            sql: format!("{name} {} {}", operator(side, edge), literal(value)),
            words: fill(&words, &plain(value)),
        })
    }

    fn bound_words(
        &mut self,
        order: Order,
        noun: &str,
        bound: (Side, Edge),
        style: Style,
    ) -> Option<String> {
        let comparison = *self.rng.pick(comparisons(order, bound))?;
        // "with a price above 5" reads well; "with a number of pages greater than 5" does not.
        let short = !comparison.contains(' ');
        Some(if style == Style::Free && short && self.rng.chance(60) {
            format!("with {} {comparison} {{}}", with_article(noun))
        } else {
            format!("whose {noun} is {comparison} {{}}")
        })
    }

    /// A measure lies between two values.
    pub fn between(&mut self, used: &mut Used<'_>, place: Place) -> Option<Condition> {
        let column = self.any_column(place.table, |role| role.measure().is_some())?;
        let values = self.distinct_values(place.table, column);
        if values.len() < 6 {
            return None;
        }
        let low = self.rng.between(values.len() / 8, values.len() / 2 - 1);
        let high = self.rng.between(low + 2, values.len() - 2);
        let (low, high) = (values[low], values[high]);
        let name = used.column(place.table, column, place.alias);
        let noun = self.column(place.table, column).one();
        let words = [
            format!("whose {noun} is between"),
            format!("whose {noun} lies between"),
            format!("with {} between", with_article(&noun)),
            format!(
                "{} have {} between",
                self.table(place.table).who(),
                with_article(&noun)
            ),
        ];
        let words = self.rng.pick(&words)?;
        Some(Condition {
            sql: format!("{name} BETWEEN {} AND {}", literal(low), literal(high)),
            words: format!("{words} {} and {}", plain(low), plain(high)),
        })
    }
}

fn own_phrase(measure: &Measure, side: Side, edge: Edge) -> Option<&str> {
    match (side, edge) {
        (Side::Above, Edge::Outside) => measure.over.as_deref(),
        (Side::Below, Edge::Outside) => measure.under.as_deref(),
        (_, Edge::Inside) => None,
    }
}

fn operator(side: Side, edge: Edge) -> &'static str {
    match (side, edge) {
        (Side::Above, Edge::Outside) => ">",
        (Side::Above, Edge::Inside) => ">=",
        (Side::Below, Edge::Outside) => "<",
        (Side::Below, Edge::Inside) => "<=",
    }
}

fn comparisons(order: Order, bound: (Side, Edge)) -> &'static [&'static str] {
    match (order, bound) {
        (Order::Amount, (Side::Above, Edge::Outside)) => {
            &["above", "over", "greater than", "higher than"]
        }
        (Order::Amount, (Side::Below, Edge::Outside)) => {
            &["below", "under", "less than", "lower than"]
        }
        (Order::Amount, (Side::Above, Edge::Inside)) => &["at least", "greater than or equal to"],
        (Order::Amount, (Side::Below, Edge::Inside)) => &["at most", "less than or equal to"],
        (Order::Time, (Side::Above, _)) => &["after", "later than"],
        (Order::Time, (Side::Below, _)) => &["before", "earlier than"],
    }
}
