//! `--network` in its short (`name`) and long (`name=…,alias=…`) form.
//! Pure.

use std::collections::BTreeMap;

/// One network to join, as the flag said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Network name, `host`, `none` or `container:…`.
    pub target: String,
    /// Names of the container in that network.
    pub aliases: Vec<String>,
    /// IPv4 address asked for.
    pub ip: String,
    /// IPv6 address asked for.
    pub ip6: String,
    /// Link-local addresses asked for.
    pub link_local_ips: Vec<String>,
    /// Links, `container:alias`.
    pub links: Vec<String>,
    /// Options for the driver.
    pub driver_opts: BTreeMap<String, String>,
    /// Hardware address asked for.
    pub mac_address: String,
    /// Which network gives the default gateway; higher wins.
    pub gw_priority: i64,
}

impl Attachment {
    /// Nothing was asked beyond the network itself.
    pub fn plain(&self) -> bool {
        *self == Attachment { target: self.target.clone(), ..Attachment::default() }
    }

    /// Neither one of Docker's built-in modes nor another container's network.
    pub fn user_defined(&self) -> bool {
        !matches!(self.target.as_str(), "default" | "bridge" | "host" | "none")
            && !self.target.starts_with("container:")
    }
}

/// Whether [`attachment`] takes the value.
///
/// # Errors
/// As [`attachment`].
pub fn check(text: &str) -> Result<(), String> {
    attachment(text).map(drop)
}

/// Reads one value.
///
/// # Errors
/// Docker's words.
pub fn attachment(text: &str) -> Result<Attachment, String> {
    let mut network = Attachment::default();
    if !text.split(',').any(|field| field.contains('=')) {
        network.target = text.to_owned();
        return Ok(network);
    }
    for field in super::mount::csv(text)? {
        let field = field.to_owned();
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field {field}"))?;
        let value = value.trim();
        match key.trim().to_lowercase().as_str() {
            "name" => network.target = value.to_owned(),
            "alias" => network.aliases.push(value.to_owned()),
            "ip" => network.ip = value.to_owned(),
            "ip6" => network.ip6 = value.to_owned(),
            "mac-address" => network.mac_address = mac(value)?,
            "link-local-ip" => network.link_local_ips.push(value.to_owned()),
            "driver-opt" => {
                let (name, value) = value
                    .split_once('=')
                    .ok_or_else(|| "invalid key value pair format in driver options".to_owned())?;
                network.driver_opts.insert(name.trim().to_lowercase(), value.trim().to_owned());
            }
            "gw-priority" => {
                network.gw_priority =
                    value.parse().map_err(|_| format!("invalid gw-priority ({value}): invalid syntax"))?;
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if network.target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(network)
}

/// A hardware address with six bytes.
///
/// # Errors
/// Docker's words.
pub fn mac(text: &str) -> Result<String, String> {
    let bytes: Vec<&str> = text.split([':', '-']).collect();
    let byte = |b: &&str| b.len() == 2 && u8::from_str_radix(b, 16).is_ok();
    if bytes.len() == 6 && bytes.iter().all(byte) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text} is not a valid mac address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(attachment("host").unwrap().target, "host");
        assert!(attachment("host").unwrap().plain() && !attachment("container:x").unwrap().user_defined());
        let n = attachment("name=n,alias=a,alias=b,ip=10.0.0.2,driver-opt=K=v,gw-priority=5").unwrap();
        assert_eq!((n.target.as_str(), n.aliases.len(), n.driver_opts["k"].as_str(), n.gw_priority), ("n", 2, "v", 5));
        assert!(!n.plain() && n.user_defined());
    }

    #[test]
    fn refusals() {
        assert_eq!(attachment("alias=x").unwrap_err(), "network name/id is not specified");
        assert_eq!(attachment("name=x,foo=1").unwrap_err(), "invalid field key foo");
        assert_eq!(mac("92:d0:c6:0a:29").unwrap_err(), "92:d0:c6:0a:29 is not a valid mac address");
    }
}
