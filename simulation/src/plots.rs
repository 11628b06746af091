//! Pictures as SVG; text stays text.

use anyhow::{Result, anyhow};
use plotters::prelude::{
    BLACK, BindKeyPoints as _, Color, IntoDrawingArea as _, IntoFont as _, IntoLogRange as _, LineSeries,
    PathElement, RGBColor, Rectangle, SVGBackend, SeriesLabelPosition, ShapeStyle, Text, WHITE,
};
use plotters::prelude::{ChartBuilder, Circle};

/// A line with its points: place, median, 95th percentile. Infinite figures are left out.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64, f64)>,
    pub dashed: bool,
}

pub struct Axis {
    pub title: &'static str,
    pub ticks: Vec<f64>,
}

/// A row of shares from 0 to 1.
pub struct Shade {
    pub row: &'static str,
    pub values: Vec<f64>,
}

/// Told apart by colour-blind readers, too (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(120, 120, 120),
    RGBColor(0, 0, 0),
];
const GRID: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "sans-serif";

/// Both axes logarithmic.
pub fn lines(title: &str, x: &Axis, y_title: &str, lines: &[Line]) -> Result<String> {
    let figures = || lines.iter().flat_map(|line| &line.points);
    let bottom = figures().map(|point| point.1).fold(f64::INFINITY, f64::min) * 0.6;
    let most =
        figures().flat_map(|point| [point.1, point.2]).filter(|y| y.is_finite()).fold(1.0, f64::max) * 1.6;
    let (first, last) =
        (x.ticks[0].min(x.ticks[x.ticks.len() - 1]), x.ticks[0].max(x.ticks[x.ticks.len() - 1]));
    let margin = (last / first).powf(0.04);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (900, 520)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let (picture, legend) = area.split_horizontally(690);
        let range = (first / margin..last * margin).log_scale().with_key_points(x.ticks.clone());
        let mut chart = ChartBuilder::on(&picture)
            .caption(title, (FONT, 16))
            .margin(10)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(range, (bottom..most).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc(x.title)
            .y_desc(y_title)
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .x_label_formatter(&|x| tick(*x))
            .y_label_formatter(&|y| tick(*y))
            .label_style((FONT, 13))
            .draw()
            .map_err(failed)?;
        for (index, line) in lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let style = ShapeStyle::from(&colour).stroke_width(if line.dashed { 1 } else { 2 });
            // A little apart, so that bars do not hide each other.
            let shift = margin.powf((index as f64 - lines.len() as f64 / 2.0) / 12.0);
            let shown: Vec<(f64, f64, f64)> = line
                .points
                .iter()
                .filter(|point| point.1.is_finite())
                .map(|&(x, y, high)| (x * shift, y, if high.is_finite() { high } else { most }))
                .collect();
            chart.draw_series(LineSeries::new(shown.iter().map(|p| (p.0, p.1)), style)).map_err(failed)?;
            let bar = |&(x, y, high): &(f64, f64, f64)| {
                PathElement::new(vec![(x, y), (x, high)], colour.mix(0.55).stroke_width(1))
            };
            chart.draw_series(shown.iter().map(bar)).map_err(failed)?;
            let point = |p: &(f64, f64, f64)| {
                let style = if line.dashed { colour.stroke_width(1) } else { colour.filled() };
                Circle::new((p.0, p.1), 4, style)
            };
            chart.draw_series(shown.iter().map(point)).map_err(failed)?;
            let y = 52 + 24 * i32::try_from(index)?;
            let style = if line.dashed { colour.stroke_width(1) } else { colour.filled() };
            legend.draw(&Circle::new((14, y + 7), 4, style)).map_err(failed)?;
            legend.draw(&Text::new(line.name.clone(), (26, y), (FONT, 13).into_font())).map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(tidy(&svg))
}

/// Rules by nuisances: the redder, the more often.
pub fn shades(title: &str, columns: &[&str], rows: &[Shade]) -> Result<String> {
    const LEFT: i32 = 190;
    const TOP: i32 = 64;
    const WIDTH: i32 = 58;
    const HEIGHT: i32 = 24;
    let width = LEFT + WIDTH * i32::try_from(columns.len())? + 16;
    let height = TOP + HEIGHT * i32::try_from(rows.len())? + 16;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width.unsigned_abs(), height.unsigned_abs()))
            .into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let write = |text: String, at: (i32, i32), size: i32| {
            area.draw(&Text::new(text, at, (FONT, size).into_font())).map_err(failed)
        };
        write(title.to_owned(), (10, 10), 16)?;
        for (index, column) in (0..).zip(columns) {
            write((*column).to_owned(), (LEFT + WIDTH * index + 14, TOP - 20), 13)?;
        }
        for (index, row) in (0..).zip(rows) {
            let y = TOP + HEIGHT * index;
            write(row.row.replace('`', ""), (10, y + 5), 13)?;
            for (column, &share) in (0..).zip(&row.values) {
                let x = LEFT + WIDTH * column;
                let colour = RGBColor(213, 94, 0).mix(share.powf(0.4));
                let corners = [(x, y), (x + WIDTH - 2, y + HEIGHT - 2)];
                area.draw(&Rectangle::new(corners, RGBColor(236, 244, 240).filled())).map_err(failed)?;
                area.draw(&Rectangle::new(corners, colour.filled())).map_err(failed)?;
                let percent = 100.0 * share;
                let digits = usize::from(percent > 0.0 && percent < 9.95);
                write(format!("{percent:.digits$} %"), (x + 8, y + 5), 12)?;
            }
        }
        area.present().map_err(failed)?;
    }
    Ok(tidy(&svg))
}

/// Evidence after each request, logarithmic, with the bar at which a build is called over its budget.
pub fn evidence(title: &str, groups: &[(&str, Vec<Vec<f64>>)], bar: f64) -> Result<String> {
    const LEAST: f64 = 0.1;
    const MOST: f64 = 1e6;
    let longest = groups.iter().flat_map(|group| &group.1).map(Vec::len).max().unwrap_or(1);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (900, 420)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, (FONT, 16))
            .margin(10)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..longest as f64, (LEAST..MOST).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("requests since the deploy")
            .y_desc("evidence")
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .y_label_formatter(&|y| tick(*y))
            .label_style((FONT, 13))
            .draw()
            .map_err(failed)?;
        for ((name, traces), colour) in groups.iter().zip([COLOURS[6], COLOURS[0], COLOURS[1]]) {
            for (index, trace) in traces.iter().enumerate() {
                // Nothing is shown beyond the upper edge.
                let inside = trace.iter().take_while(|y| **y < MOST).count();
                let last = trace.get(inside).map(|_| (inside as f64 + 1.0, MOST));
                let points = (1..).map(f64::from).zip(trace[..inside].iter().map(|y| y.max(LEAST)));
                let style = colour.mix(0.7).stroke_width(1);
                let series = LineSeries::new(points.chain(last), style);
                let drawn = chart.draw_series(series).map_err(failed)?;
                if index == 0 {
                    drawn.label(*name).legend(move |(x, y)| {
                        PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
                    });
                }
            }
        }
        let line = LineSeries::new([(0.0, bar), (longest as f64, bar)], BLACK.stroke_width(2));
        chart
            .draw_series(line)
            .map_err(failed)?
            .label("1 / alpha: over budget")
            .legend(|(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], BLACK.stroke_width(2)));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.9))
            .border_style(GRID)
            .label_font((FONT, 13))
            .draw()
            .map_err(failed)?;
        area.present().map_err(failed)?;
    }
    Ok(tidy(&svg))
}

fn tick(value: f64) -> String {
    match value {
        value if value >= 1e5 => format!("1e{:.0}", libm::log10(value)),
        value if value >= 1.0 => format!("{}", (value * 10.0).round() / 10.0),
        value => format!("{value:.3}").trim_end_matches('0').to_owned(),
    }
}

/// One element a line, as it is kept in the repository.
fn tidy(svg: &str) -> String {
    let lines: Vec<&str> = svg.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.join("\n") + "\n"
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a picture cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_svg_with_what_they_were_given() -> Result<()> {
        let axis = Axis { title: "effect", ticks: vec![1.2, 2.0, 20.0] };
        let points =
            vec![(1.2, 200.0, 300.0), (2.0, 7.0, f64::INFINITY), (20.0, f64::INFINITY, f64::INFINITY)];
        let line = Line { name: "bundle".into(), points, dashed: false };
        let picture = lines("delay", &axis, "requests", &[line])?;
        assert!(
            picture.starts_with("<svg") && picture.contains("bundle") && !picture.contains("NaN"),
            "{picture}"
        );
        let shade = Shade { row: "pooled", values: vec![0.0, 0.017, 1.0] };
        let picture = shades("rules", &["N0", "N1", "N2"], &[shade])?;
        assert!(picture.contains("0 %") && picture.contains("1.7 %") && picture.contains("100 %"));
        let picture = evidence("evidence", &[("good", vec![vec![1.0, 0.5, 1e9, 2.0]])], 1000.0)?;
        assert!(picture.contains("good") && !picture.contains("inf"));
        Ok(())
    }
}
