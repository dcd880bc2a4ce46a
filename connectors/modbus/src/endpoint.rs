//! How a line is reached: `tcp://host:502`, `rtu:///dev/ttyUSB0?baud=19200&parity=even`, `rtu+tcp://host:4001`.

use crate::frame::Framing;
use millrace_config::Reason;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Where the devices are, and how their line is spoken on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    Tcp {
        host: String,
        port: u16,
    },
    /// RTU frames through a socket: a serial server in transparent mode.
    RtuOverTcp {
        host: String,
        port: u16,
    },
    Serial(Serial),
}

/// A serial line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Serial {
    pub path: String,
    pub baud: u32,
    pub parity: Parity,
    pub stop_bits: u8,
    pub data_bits: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// Why a text is no endpoint.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum WrongEndpoint {
    #[error("`{0}` is no endpoint; write `tcp://host:502`, `rtu:///dev/ttyUSB0?baud=19200&parity=even` or `rtu+tcp://host:port`")]
    Unknown(String),
    #[error("`{0}` has no port; a serial server's has no usual one: write `rtu+tcp://host:port`")]
    NoPort(String),
    #[error("`{0}`: `{1}` is none of `baud`, `parity`, `stop_bits`, `data_bits`")]
    UnknownSetting(String, String),
    #[error("`{0}`: `{1}` is not {2}")]
    WrongSetting(String, String, &'static str),
}

/// The usual port (Modbus Messaging on TCP/IP, section 3.1.1).
const PORT: u16 = 502;

impl Default for Serial {
    fn default() -> Self {
        // Modbus over Serial Line V1.02, section 2.5.1.
        Self { path: String::new(), baud: 19_200, parity: Parity::Even, stop_bits: 1, data_bits: 8 }
    }
}

impl Serial {
    /// How many bits a character takes: start, data, parity, stop.
    pub fn bits_per_character(&self) -> u32 {
        1 + u32::from(self.data_bits) + u32::from(self.parity != Parity::None) + u32::from(self.stop_bits)
    }

    /// How long so many characters are on the line.
    pub fn transmission(&self, characters: usize) -> Duration {
        let bits = characters as u64 * u64::from(self.bits_per_character());
        Duration::from_nanos(bits * 1_000_000_000 / u64::from(self.baud.max(1)))
    }

    /// The silence between two frames: 3.5 characters, above 19200 baud 1.75 ms (section 2.5.1.1).
    pub fn silence(&self) -> Duration {
        if self.baud > 19_200 { Duration::from_micros(1_750) } else { self.transmission(7) / 2 }
    }
}

impl Endpoint {
    pub const fn framing(&self) -> Framing {
        match self {
            Self::Tcp { .. } => Framing::Tcp,
            Self::RtuOverTcp { .. } | Self::Serial(_) => Framing::Rtu,
        }
    }

    pub const fn serial(&self) -> Option<&Serial> {
        match self {
            Self::Serial(serial) => Some(serial),
            _ => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracketed = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match self {
            Self::Tcp { host, port } => write!(f, "tcp://{}:{port}", bracketed(host)),
            Self::RtuOverTcp { host, port } => write!(f, "rtu+tcp://{}:{port}", bracketed(host)),
            Self::Serial(serial) => write!(f, "rtu://{} at {} baud", serial.path, serial.baud),
        }
    }
}

impl FromStr for Endpoint {
    type Err = WrongEndpoint;

    fn from_str(text: &str) -> Result<Self, WrongEndpoint> {
        let unknown = || WrongEndpoint::Unknown(text.into());
        let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
        match scheme {
            "tcp" => {
                let (host, port) = host_and_port(rest).ok_or_else(unknown)?;
                Ok(Self::Tcp { host, port: port.unwrap_or(PORT) })
            }
            "rtu+tcp" => {
                let (host, port) = host_and_port(rest).ok_or_else(unknown)?;
                Ok(Self::RtuOverTcp { host, port: port.ok_or_else(|| WrongEndpoint::NoPort(text.into()))? })
            }
            "rtu" => serial(text, rest).map(Self::Serial),
            _ => Err(unknown()),
        }
    }
}

fn host_and_port(rest: &str) -> Option<(String, Option<u16>)> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) = rest.split_once(']')?;
            (host, if tail.is_empty() { None } else { Some(tail.strip_prefix(':')?) })
        }
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let is_host = !host.is_empty() && !host.contains(['/', '?', '@', ' ']);
    let port: Option<u16> = port.map(str::parse).transpose().ok()?;
    (is_host && port != Some(0)).then(|| (host.to_owned(), port))
}

fn serial(text: &str, rest: &str) -> Result<Serial, WrongEndpoint> {
    let (path, settings) = rest.split_once('?').unwrap_or((rest, ""));
    if path.is_empty() {
        return Err(WrongEndpoint::Unknown(text.into()));
    }
    let mut serial = Serial { path: path.into(), ..Serial::default() };
    for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        let wrong = |what| WrongEndpoint::WrongSetting(text.into(), setting.into(), what);
        match key {
            "baud" => {
                serial.baud =
                    value.parse().ok().filter(|baud| (50..=4_000_000).contains(baud)).ok_or_else(|| wrong("a rate such as 19200"))?;
            }
            "parity" => {
                serial.parity = match value {
                    "none" => Parity::None,
                    "even" => Parity::Even,
                    "odd" => Parity::Odd,
                    _ => return Err(wrong("one of `none`, `even`, `odd`")),
                }
            }
            "stop_bits" => serial.stop_bits = value.parse().ok().filter(|bits| matches!(bits, 1 | 2)).ok_or_else(|| wrong("1 or 2"))?,
            "data_bits" => serial.data_bits = value.parse().ok().filter(|bits| matches!(bits, 7 | 8)).ok_or_else(|| wrong("7 or 8"))?,
            _ => return Err(WrongEndpoint::UnknownSetting(text.into(), key.into())),
        }
    }
    Ok(serial)
}

/// An open line, whatever it is.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens the line. Errors: text that names what failed and what to do.
pub async fn open(endpoint: &Endpoint, within: Duration) -> Result<Box<dyn Stream>, Reason> {
    match endpoint {
        Endpoint::Tcp { host, port } | Endpoint::RtuOverTcp { host, port } => {
            let connecting = tokio::time::timeout(within, TcpStream::connect((host.as_str(), *port)));
            let stream = match connecting.await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err(format!("cannot connect to {endpoint}: {error}").into()),
                Err(_) => {
                    return Err(
                        format!("cannot connect to {endpoint}: no answer within {within:?}; check the address and the network").into()
                    );
                }
            };
            stream.set_nodelay(true).map_err(|error| format!("cannot set up the connection to {endpoint}: {error}"))?;
            Ok(Box::new(stream))
        }
        Endpoint::Serial(serial) => {
            let port = open_serial(serial).map_err(|error| {
                let advice = match error.kind() {
                    std::io::ErrorKind::NotFound => "; check the path, and that the adapter is plugged in",
                    std::io::ErrorKind::PermissionDenied => "; give Millrace's user the group of the device (often `dialout`)",
                    _ => "",
                };
                format!("cannot open {}: {error}{advice}", serial.path)
            })?;
            Ok(Box::new(port))
        }
    }
}

fn open_serial(serial: &Serial) -> std::io::Result<serial2_tokio::SerialPort> {
    let port = serial2_tokio::SerialPort::open(&serial.path, |mut settings: serial2_tokio::Settings| {
        settings.set_raw();
        settings.set_baud_rate(serial.baud)?;
        settings.set_char_size(if serial.data_bits == 7 { serial2_tokio::CharSize::Bits7 } else { serial2_tokio::CharSize::Bits8 });
        settings.set_stop_bits(if serial.stop_bits == 2 { serial2_tokio::StopBits::Two } else { serial2_tokio::StopBits::One });
        settings.set_parity(match serial.parity {
            Parity::None => serial2_tokio::Parity::None,
            Parity::Even => serial2_tokio::Parity::Even,
            Parity::Odd => serial2_tokio::Parity::Odd,
        });
        Ok(settings)
    })?;
    // What a device sent to somebody else before is nobody's answer.
    port.discard_input_buffer()?;
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_what_is_none_is_said() {
        let said = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()).map_err(|wrong| wrong.to_string());
        for (text, is) in [
            ("tcp://10.0.0.9", "tcp://10.0.0.9:502"),
            ("tcp://gateway.plant:1502", "tcp://gateway.plant:1502"),
            ("tcp://[fe80::1]:502", "tcp://[fe80::1]:502"),
            ("rtu+tcp://moxa:4001", "rtu+tcp://moxa:4001"),
            ("rtu:///dev/ttyUSB0", "rtu:///dev/ttyUSB0 at 19200 baud"),
            ("rtu:///dev/ttyS1?baud=9600&parity=none&stop_bits=2", "rtu:///dev/ttyS1 at 9600 baud"),
        ] {
            assert_eq!(said(text).as_deref(), Ok(is), "{text}");
        }
        for text in ["10.0.0.9:502", "tcp://", "tcp://h:x", "tcp://h:0", "tcp://h:70000", "udp://h", "rtu://", "tcp://u@h"] {
            assert!(said(text).unwrap_err().starts_with(&format!("`{text}` is no endpoint")), "{text}: {:?}", said(text));
        }
        assert_eq!(
            said("rtu+tcp://moxa").unwrap_err(),
            "`rtu+tcp://moxa` has no port; a serial server's has no usual one: write `rtu+tcp://host:port`"
        );
        assert_eq!(
            said("rtu:///dev/x?speed=1").unwrap_err(),
            "`rtu:///dev/x?speed=1`: `speed` is none of `baud`, `parity`, `stop_bits`, `data_bits`"
        );
        assert_eq!(said("rtu:///dev/x?parity=E").unwrap_err(), "`rtu:///dev/x?parity=E`: `parity=E` is not one of `none`, `even`, `odd`");
    }

    #[test]
    fn the_time_on_the_line_is_that_of_its_characters() {
        let serial = Serial { baud: 9600, ..Serial::default() };
        // 30 registers at 9600 8E1: 8 characters out, 65 back, 7 of silence.
        assert_eq!(serial.transmission(8 + 65 + 7).as_millis(), 91);
        assert_eq!(serial.silence().as_micros(), 4010);
        assert_eq!(Serial::default().bits_per_character(), 11);
    }
}
