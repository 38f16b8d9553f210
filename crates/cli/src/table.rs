//! Columns lined up as Go's tabwriter does with Docker's settings: at least 10 wide, three spaces apart, no tab after the last cell.
//! Pure.

/// Lines up tab-separated cells, each column at least 10 wide.
pub fn align(text: &str) -> String {
    align_from(10, text)
}

/// Lines up tab-separated cells, each column at least `least` wide. A column block ends where a line has no such cell, as in Go.
pub fn align_from(least: usize, text: &str) -> String {
    let lines: Vec<Vec<&str>> =
        text.split_inclusive('\n').map(|l| l.trim_end_matches('\n').split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    let deepest = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..deepest {
        let mut row = 0;
        while row < lines.len() {
            // Only cells ended by a tab take part in a column.
            let in_block = |r: usize| lines.get(r).is_some_and(|cells| cells.len() > column + 1);
            if !in_block(row) {
                row += 1;
                continue;
            }
            let end = (row..).find(|r| !in_block(*r)).unwrap_or(lines.len());
            let widest = lines[row..end].iter().map(|cells| width(cells[column])).max().unwrap_or(0);
            for cells in &mut widths[row..end] {
                cells[column] = least.max(widest + 3);
            }
            row = end;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (cells, widths) in lines.iter().zip(&widths) {
        for (at, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if at + 1 < cells.len() {
                out.extend(std::iter::repeat_n(' ', widths[at].saturating_sub(width(cell))));
            }
        }
        out.push('\n');
    }
    out
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let text = "ID\tNAME\tX\n0123456789ab\ta\ty\n1\tlonger than it\tz\n";
        let expected = "ID             NAME             X\n\
                        0123456789ab   a                y\n\
                        1              longer than it   z\n";
        assert_eq!(align(text), expected);
    }

    #[test]
    fn narrow_columns_are_ten_wide() {
        assert_eq!(align("A\tB\n1\t2\n"), "A         B\n1         2\n");
    }
}
