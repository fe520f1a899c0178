//! Tables that can be read in a terminal and are Markdown.

/// A table with its columns aligned.
pub fn grid(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule: String = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))).collect();
    let body: String = rows.iter().map(|row| line(row)).collect();
    format!("{}|{rule}\n{body}", line(&head))
}

/// The same as HTML.
pub fn html(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: String = cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let body: String = rows.iter().map(|row| line("td", &mut row.iter().map(String::as_str))).collect();
    format!("<table>\n<thead>{}</thead>\n<tbody>\n{body}</tbody>\n</table>\n", line("th", &mut head.iter().copied()))
}

/// Text as it may stand in HTML and SVG.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let rows = [vec!["a".to_string(), "≤ 1x".into()], vec!["bcd".into(), String::new()]];
        let expected = "| w   | goal |\n|-----|------|\n| a   | ≤ 1x |\n| bcd |      |\n";
        assert_eq!(grid(&["w", "goal"], &rows), expected);
    }

    #[test]
    fn html_is_escaped() {
        let table = html(&["a"], &[vec!["64 -> 4096 & <more>".to_string()]]);
        assert!(table.contains("<th>a</th>"), "{table}");
        assert!(table.contains("<td>64 -&gt; 4096 &amp; &lt;more&gt;</td>"), "{table}");
    }
}
