//! Tables in Markdown.

use std::fmt;

/// A table. The first column is text, and the others are figures.
#[derive(Default)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table without rows.
    pub(crate) fn new<T: Into<String>>(head: impl IntoIterator<Item = T>) -> Self {
        Self { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Whether the table has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.head.join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(self.head.len() - 1))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}

/// The cell of a figure with this many decimals, or a dash if there is no figure.
pub(crate) fn cell(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

/// The cells of a target and of the verdict on a figure. Both are empty if there is no target.
pub(crate) fn judged(value: Option<f64>, target: Option<f64>) -> [String; 2] {
    let Some(target) = target else { return [String::new(), String::new()] };
    let verdict = match value {
        Some(value) if value <= target => "met",
        Some(_) => "missed",
        None => "–",
    };
    [format!("≤ {target}"), verdict.to_owned()]
}

/// The cells of a quotient, of its target and of the verdict on it.
pub(crate) fn judged_quotient(value: Option<f64>, target: Option<f64>) -> [String; 3] {
    let [target, verdict] = judged(value, target);
    [cell(value, 2), target, verdict]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new(["work", "a", "b"]);
        table.row(vec!["x".into(), cell(Some(1.25), 1), cell(None, 1)]);
        assert_eq!(table.to_string(), "| work | a | b |\n|---|---:|---:|\n| x | 1.2 | – |\n");
    }

    #[test]
    fn a_target_is_met_up_to_itself() {
        assert_eq!(judged(Some(1.4), Some(1.4)), ["≤ 1.4", "met"]);
        assert_eq!(judged(Some(1.41), Some(1.4)), ["≤ 1.4", "missed"]);
        assert_eq!(judged(None, Some(5.0)), ["≤ 5", "–"]);
        assert_eq!(judged(Some(1.0), None), ["", ""]);
    }
}
