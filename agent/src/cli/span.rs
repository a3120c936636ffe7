//! Stretches of time on the command line: `90s`, `10m`, `2h`.

use std::time::Duration;

/// Reads one.
///
/// # Errors
/// What to write instead.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(['s', 'm', 'h']);
    let seconds = match &text[number.len()..] {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let read = number.parse::<u32>().ok().zip(seconds);
    match read {
        Some((number, seconds)) if number > 0 => {
            Ok(Duration::from_secs(u64::from(number) * seconds))
        }
        _ => Err("write a number and its unit, such as 90s, 10m or 2h".to_owned()),
    }
}

/// Reads one of at most so many hours.
pub(super) fn parse_within(text: &str, hours: u64) -> Result<Duration, String> {
    let read = parse(text)?;
    if read <= Duration::from_secs(hours * 3600) {
        Ok(read)
    } else {
        Err(format!("at most {hours}h"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_its_unit() {
        let seconds = |text| parse(text).ok().map(|d| d.as_secs());
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("10m"), Some(600));
        assert_eq!(seconds("2h"), Some(7200));
        for bad in [
            "",
            "10",
            "m",
            "0s",
            "-1m",
            "1d",
            "1.5h",
            "10mm",
            "4294967296s",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        assert!(parse_within("24h", 24).is_ok() && parse_within("1441m", 24).is_err());
    }
}
