//! Who owned how much when, as an SVG picture: areas on top of one another, moments marked.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::monitor::Owners;

/// Who owned what at a moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Seconds since the machine was switched on.
    pub seconds: f64,
    /// Who owned how much.
    pub owners: Owners,
}

/// A moment with a name.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Seconds since the machine was switched on.
    pub seconds: f64,
    /// What happened.
    pub what: String,
}

/// One owner's area.
struct Layer {
    name: String,
    colour: &'static str,
    bytes: Box<dyn Fn(&Owners) -> u64>,
}

/// The colours of guests, in turn.
const GUESTS: [&str; 3] = ["#2563eb", "#0891b2", "#7c3aed"];

const WIDTH: f64 = 1040.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 178.0;
const TOP: f64 = 118.0;
const BOTTOM: f64 = 52.0;

/// The areas from the bottom to the top, of each guest that was seen one. Tables and retired frames may be thinner
/// than a line; the legend has their figures.
fn layers(samples: &[Sample]) -> Vec<Layer> {
    fn layer(name: &str, colour: &'static str, bytes: fn(&Owners) -> u64) -> Layer {
        Layer { name: name.into(), colour, bytes: Box::new(bytes) }
    }
    let names: BTreeSet<&String> =
        samples.iter().flat_map(|sample| sample.owners.guests.keys()).collect();
    let guests = names.into_iter().zip(GUESTS.into_iter().cycle()).map(|(name, colour)| {
        let guest = name.clone();
        Layer { name: name.clone(), colour, bytes: Box::new(move |owners| owners.guest(&guest)) }
    });
    let below = [
        layer("hypervisor", "#334155", |owners| owners.hypervisor),
        layer("bundle", "#94a3b8", |owners| owners.bundle),
        layer("tables", "#b45309", Owners::all_tables),
    ];
    let above = [
        layer("retired", "#dc2626", |owners| owners.retired + owners.in_hand),
        layer("free", "#a7d8b8", |owners| owners.free),
    ];
    below.into_iter().chain(guests).chain(above).collect()
}

/// Where things are in the picture.
struct Scale {
    seconds: f64,
    bytes: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds
    }

    fn y(&self, bytes: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * bytes / self.bytes
    }
}

/// Draws the picture; `title` stands above it.
pub fn draw(title: &str, samples: &[Sample], moments: &[Moment]) -> String {
    let scale = Scale {
        seconds: samples.last().map_or(1.0, |last| last.seconds.max(1.0)),
        bytes: samples.first().map_or(1.0, |first| first.owners.total.max(1) as f64),
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#1e293b\">\n\
         <title>{0}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"34\" font-size=\"19\" font-weight=\"600\">{0}</text>\n",
        escape(title)
    );
    // Writing to a string cannot fail.
    let _ = areas(&mut svg, &scale, samples);
    let _ = axes(&mut svg, &scale);
    let _ = marks(&mut svg, &scale, moments);
    let _ = legend(&mut svg, samples);
    svg.push_str("</svg>\n");
    svg
}

fn areas(svg: &mut String, scale: &Scale, samples: &[Sample]) -> std::fmt::Result {
    let mut below = vec![0.0; samples.len()];
    for layer in layers(samples) {
        let above: Vec<f64> = samples
            .iter()
            .zip(&below)
            .map(|(sample, below)| below + (layer.bytes)(&sample.owners) as f64)
            .collect();
        let upper = samples.iter().zip(&above);
        let lower = samples.iter().zip(&below).rev();
        write!(svg, "<polygon fill=\"{}\" points=\"", layer.colour)?;
        for (sample, bytes) in upper.chain(lower) {
            write!(svg, "{:.1},{:.1} ", scale.x(sample.seconds), scale.y(*bytes))?;
        }
        writeln!(svg, "\"><title>{}</title></polygon>", layer.name)?;
        below = above;
    }
    Ok(())
}

fn axes(svg: &mut String, scale: &Scale) -> std::fmt::Result {
    let floor = HEIGHT - BOTTOM;
    let edge = WIDTH - RIGHT;
    let step = nice_step(
        scale.bytes / f64::from(1 << 20),
        5.0,
        &[64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0],
    );
    let mut mib = 0.0;
    while mib * 1_048_576.0 <= scale.bytes {
        let y = scale.y(mib * 1_048_576.0);
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{edge}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#0f172a\" \
             stroke-opacity=\"0.12\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mib} \
             MiB</text>",
            LEFT - 8.0,
            y + 4.5
        )?;
        mib += step;
    }
    let step = nice_step(scale.seconds, 8.0, &[0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0]);
    let mut seconds = 0.0;
    while seconds <= scale.seconds {
        let x = scale.x(seconds);
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{floor}\" y2=\"{:.1}\" stroke=\"#64748b\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{seconds} s</text>",
            floor + 5.0,
            floor + 21.0
        )?;
        seconds += step;
    }
    writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#64748b\">since the machine \
         was switched on</text>",
        (LEFT + edge) / 2.0,
        HEIGHT - 12.0
    )
}

/// Moments are named in rows above the picture, so that near ones do not run into each other.
fn marks(svg: &mut String, scale: &Scale, moments: &[Moment]) -> std::fmt::Result {
    const ROWS: [f64; 4] = [108.0, 92.0, 76.0, 60.0];
    let mut ends = [f64::MIN; ROWS.len()];
    for moment in moments {
        let x = scale.x(moment.seconds);
        let width = moment.what.chars().count() as f64 * 6.6 + 12.0;
        // Where it would leave the picture, the name stands left of its line.
        let (anchor, start) = if x + width > WIDTH { ("end", x - width) } else { ("start", x) };
        let row = (0..ROWS.len()).find(|&row| ends[row] < start).unwrap_or(ROWS.len() - 1);
        ends[row] = start + width;
        let shift = if anchor == "end" { -5.0 } else { 5.0 };
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#0f172a\" \
             stroke-dasharray=\"3 3\" stroke-opacity=\"0.7\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" font-size=\"12\">{}</text>",
            ROWS[row] - 10.0,
            HEIGHT - BOTTOM,
            x + shift,
            ROWS[row],
            escape(&moment.what)
        )?;
    }
    Ok(())
}

fn legend(svg: &mut String, samples: &[Sample]) -> std::fmt::Result {
    let x = WIDTH - RIGHT + 18.0;
    writeln!(svg, "<text x=\"{x}\" y=\"{}\" fill=\"#64748b\">least to most</text>", TOP + 8.0)?;
    for (index, layer) in layers(samples).iter().rev().enumerate() {
        let values = samples.iter().map(|sample| (layer.bytes)(&sample.owners));
        let (least, most) =
            values.fold((u64::MAX, 0), |(least, most), value| (least.min(value), most.max(value)));
        let y = TOP + 22.0 + index as f64 * 40.0;
        writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\" rx=\"3\" fill=\"{}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" font-weight=\"600\">{}</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\" fill=\"#64748b\">{}</text>",
            layer.colour,
            x + 22.0,
            y + 12.0,
            layer.name,
            x + 22.0,
            y + 27.0,
            span(least.min(most), most)
        )?;
    }
    Ok(())
}

fn span(least: u64, most: u64) -> String {
    let (least, most) = (size(least), size(most));
    if least == most { most } else { format!("{least} to {most}") }
}

/// A size in KiB or MiB, whichever says more.
pub fn size(bytes: u64) -> String {
    match bytes >> 10 {
        0 => "0".into(),
        kib if kib < 10 << 10 => format!("{kib} KiB"),
        kib => format!("{} MiB", kib >> 10),
    }
}

fn nice_step(all: f64, pieces: f64, steps: &[f64]) -> f64 {
    let wanted = all / pieces;
    steps.iter().copied().find(|step| *step >= wanted).unwrap_or_else(|| wanted.ceil())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Moment, Sample, draw, size};
    use crate::monitor::Owners;

    fn sample(seconds: f64, free: u64) -> Sample {
        let guests = [("one".into(), 0), ("two".into(), 0)].into();
        Sample { seconds, owners: Owners { total: 1 << 30, free, guests, ..Owners::default() } }
    }

    #[test]
    fn a_picture_has_an_area_for_each_owner_and_a_line_for_each_moment() {
        let samples = [sample(0.0, 1 << 30), sample(9.0, 1 << 29)];
        let moments = [Moment { seconds: 4.0, what: "a < b".into() }];
        let svg = draw("title", &samples, &moments);
        assert_eq!(svg.matches("<polygon").count(), 7);
        assert_eq!(svg.matches("stroke-dasharray").count(), 1);
        assert!(svg.contains("a &lt; b"));
        assert!(svg.contains("512 MiB to 1024 MiB"));
    }

    #[test]
    fn sizes_keep_what_matters() {
        assert_eq!(size(0), "0");
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(512 << 20), "512 MiB");
    }
}
