//! What was measured, as a table of text that can be kept: the page is made from it and from nothing else.
//!
//! A line is `GROUP ITEM SERVER MEASURE VALUE...`, with tabs between, one value for each round. Groups: `about` (the
//! machine, the command, versions; notes), `workload` (W1 to W10), `latency`, `workers`, `size`, `size-W8`, `size-W4`,
//! `publish`, `instructions`. Not here: what a measure means (`page.rs`).

use std::fmt::Write as _;

/// All figures of a run, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet(Vec<Row>);

#[derive(Clone, Debug, PartialEq)]
struct Row {
    key: [String; 4],
    values: Vec<String>,
}

impl Sheet {
    /// One more round's value.
    pub fn add(&mut self, group: &str, item: &str, server: &str, measure: &str, value: &str) {
        let key = [group, item, server, measure].map(ToOwned::to_owned);
        // A tab or a line end would be the end of the value.
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        match self.0.iter_mut().find(|row| row.key == key) {
            Some(row) => row.values.push(value),
            None => self.0.push(Row { key, values: vec![value] }),
        }
    }

    /// The first value, as text.
    pub fn text(&self, group: &str, item: &str, server: &str, measure: &str) -> Option<&str> {
        let row = self.0.iter().find(|row| row.key == [group, item, server, measure])?;
        row.values.first().map(String::as_str)
    }

    /// The median over the rounds.
    pub fn median(&self, group: &str, item: &str, server: &str, measure: &str) -> Option<f64> {
        let row = self.0.iter().find(|row| row.key == [group, item, server, measure])?;
        let mut values: Vec<f64> = row.values.iter().filter_map(|value| value.parse().ok()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            odd if odd % 2 == 1 => Some(values[middle]),
            _ => Some(f64::midpoint(values[middle - 1], values[middle])),
        }
    }

    /// The items of a group, each once, in their order.
    pub fn items(&self, group: &str) -> Vec<&str> {
        self.distinct(|row| (row.key[0] == group).then_some(&row.key[1]))
    }

    /// Who was measured in a group, or in one item of it.
    pub fn servers(&self, group: &str, item: Option<&str>) -> Vec<&str> {
        self.distinct(|row| (row.key[0] == group && item.is_none_or(|item| row.key[1] == item)).then_some(&row.key[2]))
    }

    fn distinct<'a>(&'a self, of: impl Fn(&'a Row) -> Option<&'a String>) -> Vec<&'a str> {
        let mut all: Vec<&str> = Vec::new();
        for text in self.0.iter().filter_map(of) {
            if !all.contains(&text.as_str()) {
                all.push(text);
            }
        }
        all
    }

    /// All values of one line.
    pub fn values(&self, group: &str, item: &str, server: &str, measure: &str) -> &[String] {
        self.0.iter().find(|row| row.key == [group, item, server, measure]).map_or(&[], |row| &row.values)
    }

    pub fn write(&self) -> String {
        let mut text = String::new();
        for Row { key, values } in &self.0 {
            let _ = writeln!(text, "{}\t{}", key.join("\t"), values.join("\t"));
        }
        text
    }

    /// What `write` wrote.
    ///
    /// # Errors
    ///
    /// The first line that is none of a sheet.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut sheet = Self::default();
        for (number, line) in text.lines().enumerate() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [group, item, server, measure, values @ ..] = &fields[..] else {
                return Err(format!("line {}: not GROUP ITEM SERVER MEASURE VALUE...: {line}", number + 1));
            };
            let key = [group, item, server, measure].map(|field| (*field).to_owned());
            sheet.0.push(Row { key, values: values.iter().map(ToString::to_string).collect() });
        }
        Ok(sheet)
    }
}
