"""Settings: where files are, which grid, the client's secrets, Tahoe node directories."""

from lafsfs.config.node_directory import from_node_directory
from lafsfs.config.options import parse_duration, parse_option_list, parse_size
from lafsfs.config.paths import Paths
from lafsfs.config.profile import DEFAULT_ENCODING, Encoding, GridProfile
from lafsfs.config.secrets import Aliases, ClientSecrets
from lafsfs.config.server import ServerEntry, SignedCertificate

__all__ = [
    "DEFAULT_ENCODING",
    "Aliases",
    "ClientSecrets",
    "Encoding",
    "GridProfile",
    "Paths",
    "ServerEntry",
    "SignedCertificate",
    "from_node_directory",
    "parse_duration",
    "parse_option_list",
    "parse_size",
]
