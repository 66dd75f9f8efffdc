//! A value as a document for people and shells: indented JSON, lines of text, or Markdown. Pure; where the
//! value comes from is its caller's.

use std::fmt::Write as _;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// How a value is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Render {
    /// Indented JSON and a line's end.
    #[default]
    Json,
    /// A leaf as it is, anything else as lines of `path: value`. Nothing is nothing.
    Text,
    /// Headings, lists and tables.
    Markdown,
}

impl Render {
    /// All of them, by the names that users give them.
    pub const ALL: [(&'static str, Self); 3] =
        [("json", Self::Json), ("text", Self::Text), ("markdown", Self::Markdown)];

    /// Writes `json`, the value at `title`.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn document(self, title: &str, json: &[u8]) -> serde_json::Result<Vec<u8>> {
        let node: Node = serde_json::from_slice(json)?;
        let mut out = String::new();
        match self {
            Self::Json => out = serde_json::to_string_pretty(&Ordered(&node))? + "\n",
            Self::Text => text(&node, &mut String::new(), &mut out),
            Self::Markdown => page(title, &node, &mut out),
        }
        Ok(out.into())
    }
}

/// A value whose children keep their order.
#[derive(Debug)]
enum Node {
    Leaf(Value),
    Branch(Vec<(String, Node)>),
}

/// A node as JSON again.
struct Ordered<'n>(&'n Node);

impl serde::Serialize for Ordered<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Node::Leaf(leaf) => leaf.serialize(serializer),
            Node::Branch(children) => serializer.collect_map(children.iter().map(|(key, child)| (key, Ordered(child)))),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        /// One method of the visitor for each kind of leaf.
        macro_rules! leaves {
            ($($visit:ident: $kind:ty,)*) => {
                $(fn $visit<E>(self, leaf: $kind) -> Result<Node, E> {
                    Ok(Node::Leaf(Value::from(leaf)))
                })*
            };
        }
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }

            leaves! { visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str, }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf(Value::Null))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut children = Vec::new();
                while let Some(child) = map.next_entry()? {
                    children.push(child);
                }
                Ok(Node::Branch(children))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut children = Vec::new();
                let mut index = 0;
                while let Some(child) = list.next_element()? {
                    // A gap between numbered children.
                    if !matches!(child, Node::Leaf(Value::Null)) {
                        children.push((index.to_string(), child));
                    }
                    index += 1;
                }
                Ok(Node::Branch(children))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A leaf without the quotes of JSON.
fn bare(leaf: &Value) -> String {
    match leaf {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn text(node: &Node, path: &mut String, out: &mut String) {
    match node {
        Node::Leaf(Value::Null) => {}
        Node::Leaf(leaf) if path.is_empty() => *out += &(bare(leaf) + "\n"),
        Node::Leaf(leaf) => {
            let one_line = leaf.as_str().is_none_or(|text| !text.contains(char::is_control));
            let value = if one_line { bare(leaf) } else { leaf.to_string() };
            writeln!(out, "{path}: {value}").expect("writing to memory does not fail");
        }
        Node::Branch(children) => {
            for (key, child) in children {
                let before = path.len();
                if before > 0 {
                    path.push('/');
                }
                path.push_str(key);
                text(child, path, out);
                path.truncate(before);
            }
        }
    }
}

/// Columns of a table, at most: wider ones are read as sections.
const COLUMNS_MAX: usize = 8;
/// Headings go no deeper.
const HEADING_MAX: usize = 6;

fn page(title: &str, node: &Node, out: &mut String) {
    *out += &format!("# {title}\n\n");
    match node {
        Node::Leaf(Value::Null) => *out += "(nothing)\n",
        Node::Leaf(leaf) => *out += &(bare(leaf) + "\n"),
        Node::Branch(children) => section(children, 2, out),
    }
}

/// First what has a value, then what has children of its own.
fn section(children: &[(String, Node)], level: usize, out: &mut String) {
    if let Some(columns) = columns(children) {
        return table(children, &columns, out);
    }
    let mut listed = false;
    for (key, child) in children {
        if let Node::Leaf(leaf) = child {
            *out += &format!("- **{key}**: {}\n", bare(leaf).replace('\n', "\n  "));
            listed = true;
        }
    }
    if listed {
        out.push('\n');
    }
    for (key, child) in children {
        if let Node::Branch(inner) = child {
            *out += &format!("{} {key}\n\n", "#".repeat(level.min(HEADING_MAX)));
            section(inner, level + 1, out);
        }
    }
}

/// The columns of a table, where the children make one: two or more rows of leaves with names in common.
fn columns(children: &[(String, Node)]) -> Option<Vec<&str>> {
    let mut columns: Vec<&str> = Vec::new();
    let mut cells = 0;
    for (_, child) in children {
        let Node::Branch(row) = child else { return None };
        for (name, cell) in row {
            if matches!(cell, Node::Branch(_)) {
                return None;
            }
            cells += 1;
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
            if columns.len() > COLUMNS_MAX {
                return None;
            }
        }
    }
    // Mostly empty cells are no table.
    (children.len() > 1 && cells * 2 >= columns.len() * children.len()).then_some(columns)
}

fn table(rows: &[(String, Node)], columns: &[&str], out: &mut String) {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', "<br>");
    *out += &format!(
        "| |{}\n|---|{}\n",
        columns.iter().map(|name| format!(" {} |", cell(name))).collect::<String>(),
        "---|".repeat(columns.len())
    );
    for (key, row) in rows {
        let Node::Branch(cells) = row else { continue };
        let value = |column: &&str| cells.iter().find(|(name, _)| name == column);
        *out += &format!("| {} |", cell(key));
        for column in columns {
            match value(column) {
                Some((_, Node::Leaf(leaf))) => *out += &format!(" {} |", cell(&bare(leaf))),
                _ => *out += " |",
            }
        }
        out.push('\n');
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(render: Render, json: &str, expected: &str) {
        let document = render.document("/home", json.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(document).unwrap(), expected, "{render:?} of {json}");
    }

    #[test]
    fn json_is_indented_and_keeps_its_order() {
        check(
            Render::Json,
            r#"{"10":1,"b":[1,null,2],"a":{}}"#,
            "{\n  \"10\": 1,\n  \"b\": {\n    \"0\": 1,\n    \"2\": 2\n  },\n  \"a\": {}\n}\n",
        );
        check(Render::Json, "\"x\"", "\"x\"\n");
        check(Render::Json, "null", "null\n");
    }

    #[test]
    fn text_is_bare() {
        check(Render::Text, "21.5", "21.5\n");
        check(Render::Text, "\"a b\"", "a b\n");
        check(Render::Text, "\"two\\nlines\"", "two\nlines\n");
        check(Render::Text, "null", "");
        check(Render::Text, r#"{"b":{"c":true,"d":"x\ny"},"a":"z"}"#, "b/c: true\nb/d: \"x\\ny\"\na: z\n");
        check(Render::Text, r#"["x",null,"y"]"#, "0: x\n2: y\n");
    }

    #[test]
    fn markdown_is_readable() {
        check(Render::Markdown, "21.5", "# /home\n\n21.5\n");
        check(Render::Markdown, "null", "# /home\n\n(nothing)\n");
        check(
            Render::Markdown,
            r#"{"name":"Cottage","rooms":{"kitchen":{"temp":21.5,"note":"a|b"},"cellar":{"temp":8}},"deep":{"x":{"y":{"z":1}}}}"#,
            "# /home\n\n- **name**: Cottage\n\n## rooms\n\n| | temp | note |\n|---|---|---|\n| kitchen | 21.5 | a\\|b |\n| cellar | 8 | |\n\n\
             ## deep\n\n### x\n\n#### y\n\n- **z**: 1\n\n",
        );
    }

    #[test]
    fn what_is_no_json_is_refused() {
        assert!(Render::Text.document("/", b"{").is_err());
    }
}
