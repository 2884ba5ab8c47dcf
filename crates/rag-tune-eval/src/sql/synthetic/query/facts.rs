//! What a query asks of its columns: conditions, links, and what they are used for.

use super::{Clause, Node, Reader};
use crate::sql::synthetic::lexemes::Lexeme;
use crate::sql::synthetic::values::{Comparison, Operator, Value};

/// Aggregate functions whose argument is a number.
const NUMERIC_AGGREGATES: [&str; 3] = ["sum", "avg", "total"];

#[derive(Debug, Clone, Copy)]
enum Operand {
    Column(Node),
    /// `count(...)`
    Count,
}

impl Reader {
    /// Conditions, links, and what columns are used for.
    pub(super) fn find_facts(&mut self) {
        for at in 0..self.query.pieces.len() {
            if let Some(operator) = self.operator(at) {
                self.read_comparison(at, operator);
            } else {
                self.read_predicate(at);
            }
            self.read_use(at);
        }
    }

    fn operator(&self, at: usize) -> Option<Operator> {
        match self.lexeme(at)? {
            Lexeme::Symbol(symbol) => Operator::parse(symbol),
            _ => None,
        }
    }

    /// The literal at `at`; a text in double quotes that is no column is one.
    fn literal(&self, at: usize) -> Option<Value> {
        match self.lexeme(at)? {
            Lexeme::Literal(value) => Some(value.clone()),
            Lexeme::Name {
                name,
                is_double_quoted: true,
                ..
            } if self.query.nodes[at].is_none() && !self.is_other_name[at] => {
                Some(Value::Text(name.clone()))
            }
            _ => None,
        }
    }

    /// The column whose value ends before `end`: a column, or a function of one that keeps its values.
    fn operand(&self, end: usize) -> Option<Operand> {
        let at = end.checked_sub(1)?;
        if let Some(node) = self.query.nodes[at] {
            return Some(Operand::Column(node));
        }
        if !self.is_symbol(at, ")") {
            return None;
        }
        let open = self.opening(at)?;
        let function = match self.lexeme(open.checked_sub(1)?)? {
            Lexeme::Name { name, .. } => name.to_ascii_lowercase(),
            _ => return None,
        };
        match function.as_str() {
            "count" => Some(Operand::Count),
            "sum" | "avg" | "min" | "max" | "total" | "lower" | "upper" | "trim" | "abs"
            | "round" => {
                let mut nodes = self.query.nodes[open..at].iter().flatten();
                nodes.next().map(|&node| Operand::Column(node))
            }
            _ => None,
        }
    }

    /// The parenthesis that the one at `close` closes.
    fn opening(&self, close: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for at in (0..=close).rev() {
            if self.is_symbol(at, ")") {
                depth += 1;
            } else if self.is_symbol(at, "(") {
                depth = depth.checked_sub(1)?;
            }
            if depth == 0 {
                return Some(at);
            }
        }
        None
    }

    fn read_comparison(&mut self, at: usize, operator: Operator) {
        let left = self.operand(at);
        if let (Some(Operand::Column(a)), Some(b)) =
            (left, self.query.nodes.get(at + 1).copied().flatten())
        {
            if operator == Operator::Equal {
                self.query.links.push((a, b));
            }
            return;
        }
        let (operand, operator, value) = match (left, self.literal(at + 1)) {
            (Some(operand), Some(value)) => (operand, operator, value),
            (None, _) => {
                let value = at.checked_sub(1).and_then(|before| self.literal(before));
                let node = self.query.nodes.get(at + 1).copied().flatten();
                let (Some(value), Some(node)) = (value, node) else {
                    return;
                };
                (Operand::Column(node), operator.flipped(), value)
            }
            (Some(operand), None) => {
                if operator == Operator::Equal {
                    let link = self.subquery_link(operand, at + 1);
                    self.query.links.extend(link);
                }
                return;
            }
        };
        match operand {
            Operand::Column(node) => {
                let comparison = Comparison::Compare(operator, value);
                self.query.conditions.push((node, comparison));
            }
            Operand::Count => {
                if let (Some((core, Clause::Having)), Value::Integer(size)) =
                    (self.places[at], value)
                {
                    self.query.cores[core].group_size = Some((operator, size));
                }
            }
        }
    }

    /// `IN`, `LIKE`, `BETWEEN` and `IS NULL`.
    fn read_predicate(&mut self, at: usize) {
        let Some(Lexeme::Keyword(keyword)) = self.lexeme(at) else {
            return;
        };
        let keyword = keyword.clone();
        let is_negated = at > 0 && self.is_keyword(at - 1, "not");
        let operand = self.operand(at - usize::from(is_negated));
        let comparison = match keyword.as_str() {
            "like" | "glob" => match self.literal(at + 1) {
                Some(Value::Text(pattern)) if keyword == "like" => Comparison::Like(pattern),
                Some(Value::Text(pattern)) => {
                    Comparison::Like(pattern.replace('*', "%").replace('?', "_"))
                }
                _ => return,
            },
            "between" => {
                let (Some(low), Some(high)) = (self.literal(at + 1), self.literal(at + 3)) else {
                    return;
                };
                Comparison::Between(low, high)
            }
            "is" => {
                let is_not = self.is_keyword(at + 1, "not");
                if !self.is_keyword(at + 1 + usize::from(is_not), "null") {
                    return;
                }
                if is_not {
                    Comparison::Not(Box::new(Comparison::IsNull))
                } else {
                    Comparison::IsNull
                }
            }
            "in" => {
                let literals: Vec<Value> = (at + 2..)
                    .step_by(2)
                    .map_while(|at| self.literal(at))
                    .collect();
                if literals.is_empty() {
                    let link = operand.and_then(|operand| self.subquery_link(operand, at + 1));
                    if is_negated {
                        self.query.contrasts.extend(link);
                    } else {
                        self.query.links.extend(link);
                    }
                    return;
                }
                Comparison::Among(literals)
            }
            _ => return,
        };
        let comparison = if is_negated {
            Comparison::Not(Box::new(comparison))
        } else {
            comparison
        };
        match operand {
            Some(Operand::Column(node)) => self.query.conditions.push((node, comparison)),
            Some(Operand::Count) => {
                if let (Some((core, _)), Comparison::Between(Value::Integer(low), _)) =
                    (self.places[at], comparison)
                {
                    self.query.cores[core].group_size = Some((Operator::GreaterOrEqual, low));
                }
            }
            None => {}
        }
    }

    /// The columns of `operand = (SELECT column ...` or `operand IN (SELECT column ...`.
    fn subquery_link(&self, operand: Operand, open: usize) -> Option<(Node, Node)> {
        let is_subquery = self.is_symbol(open, "(") && self.is_keyword(open + 1, "select");
        let first = open + 2 + usize::from(self.is_keyword(open + 2, "distinct"));
        let inner = self.query.nodes.get(first).copied().flatten()?;
        match operand {
            Operand::Column(node) if is_subquery => Some((node, inner)),
            _ => None,
        }
    }

    /// What the column at `at` is used for.
    fn read_use(&mut self, at: usize) {
        let Some(node) = self.query.nodes[at] else {
            return;
        };
        let function = at
            .checked_sub(2)
            .and_then(|before| match self.lexeme(before)? {
                Lexeme::Name { name, .. } if self.is_symbol(at - 1, "(") => {
                    Some(name.to_ascii_lowercase())
                }
                _ => None,
            });
        let is_arithmetic = |at: Option<usize>| {
            at.is_some_and(|at| ["+", "-", "/"].iter().any(|sign| self.is_symbol(at, sign)))
        };
        let function = function.as_deref();
        if function.is_some_and(|name| NUMERIC_AGGREGATES.contains(&name))
            || is_arithmetic(at.checked_sub(1))
            || is_arithmetic(Some(at + 1))
        {
            self.query.numeric.push(node);
        }
        let Some((core, clause)) = self.places[at] else {
            return;
        };
        if clause == Clause::OrderBy && function.is_none()
            || matches!(function, Some("min" | "max"))
        {
            self.query.ordered.push(node);
        }
        let is_plain = function.is_none() && !self.is_symbol(at - usize::from(at > 0), "(");
        match clause {
            Clause::Select if is_plain => self.query.cores[core].selected.push(node),
            Clause::GroupBy => self.query.cores[core].grouped.push(node),
            _ => {}
        }
    }
}
