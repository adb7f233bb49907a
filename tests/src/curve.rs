//! Curves over a size, as an SVG picture: both axes by powers, so that what does not grow lies flat.

use std::fmt::Write as _;

/// A curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What it shows.
    pub name: String,
    /// The points, by ascending size: bytes, and what was measured, at least 1.
    pub points: Vec<(u64, f64)>,
}

const WIDTH: f64 = 980.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 240.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 56.0;
const COLOURS: [&str; 8] =
    ["#2563eb", "#dc2626", "#059669", "#b45309", "#7c3aed", "#0891b2", "#be185d", "#334155"];

/// Where things are in the picture.
struct Scale {
    least: f64,
    most: f64,
    top: f64,
}

impl Scale {
    fn of(curves: &[Curve]) -> Self {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let least = points().map(|point| point.0).min().unwrap_or(1).max(1) as f64;
        let most = points().map(|point| point.0).max().unwrap_or(2) as f64;
        let top = points().map(|point| point.1).fold(10.0, f64::max);
        Self {
            least: least.log2(),
            most: most.log2().max(least.log2() + 1.0),
            top: top.log10().ceil(),
        }
    }

    fn x(&self, bytes: u64) -> f64 {
        let part = ((bytes.max(1) as f64).log2() - self.least) / (self.most - self.least);
        LEFT + (WIDTH - LEFT - RIGHT) * part
    }

    fn y(&self, measured: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * measured.max(1.0).log10() / self.top
    }
}

/// Draws the picture; `title` stands above it, `unit` says what was measured.
pub fn draw(title: &str, unit: &str, curves: &[Curve]) -> String {
    let scale = Scale::of(curves);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#1e293b\">\n\
         <title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"30\" font-size=\"19\" font-weight=\"600\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"50\" fill=\"#64748b\">{unit}</text>\n"
    );
    // Writing to a string cannot fail.
    let _ = axes(&mut svg, &scale, curves);
    let _ = lines(&mut svg, &scale, curves);
    svg.push_str("</svg>\n");
    svg
}

fn axes(svg: &mut String, scale: &Scale, curves: &[Curve]) -> std::fmt::Result {
    let edge = WIDTH - RIGHT;
    for power in 0..=scale.top as i32 {
        let y = scale.y(10f64.powi(power));
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{edge}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#0f172a\" \
             stroke-opacity=\"0.12\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.5,
            10u64.pow(power as u32)
        )?;
    }
    let mut sizes: Vec<u64> =
        curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.0)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for bytes in sizes {
        let x = scale.x(bytes);
        let floor = HEIGHT - BOTTOM;
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{floor}\" y2=\"{:.1}\" stroke=\"#64748b\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            floor + 5.0,
            floor + 21.0,
            size(bytes)
        )?;
    }
    Ok(())
}

fn lines(svg: &mut String, scale: &Scale, curves: &[Curve]) -> std::fmt::Result {
    for (index, curve) in curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let dashes = if index < COLOURS.len() { "none" } else { "6 4" };
        write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\" points=\""
        )?;
        for &(bytes, measured) in &curve.points {
            write!(svg, "{:.1},{:.1} ", scale.x(bytes), scale.y(measured))?;
        }
        writeln!(svg, "\"/>")?;
        for &(bytes, measured) in &curve.points {
            writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {measured:.0}</title></circle>",
                scale.x(bytes),
                scale.y(measured),
                size(bytes)
            )?;
        }
        let (x, y) = (WIDTH - RIGHT + 18.0, TOP + index as f64 * 22.0);
        writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dashes}\"/>\n<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 20.0,
            x + 28.0,
            y + 4.5,
            curve.name
        )?;
    }
    Ok(())
}

/// A size by the largest unit that it is whole in.
pub fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    units
        .iter()
        .find(|(shift, _)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{bytes} B"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::{Curve, draw, size};

    #[test]
    fn what_does_not_grow_lies_flat() {
        let points = vec![(4096, 700.0), (1 << 30, 700.0)];
        let svg = draw("title", "instructions", &[Curve { name: "remove".into(), points }]);
        let line = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let heights: Vec<_> = line.split_whitespace().filter_map(|p| p.split(',').nth(1)).collect();
        assert_eq!(heights.len(), 2);
        assert_eq!(heights[0], heights[1]);
        assert!(svg.contains(">4 KiB<") && svg.contains(">1 GiB<"));
    }

    #[test]
    fn sizes_are_in_whole_units() {
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(32 << 20), "32 MiB");
        assert_eq!(size(16 << 30), "16 GiB");
    }
}
