"""`cluster.tracking.config` under the name that it had in 0.1, which scripts of users import."""

from cluster.tracking.config import TrackingConfig as TrackingConfig
from cluster.tracking.config import default_store as default_store
from cluster.tracking.config import store_file as store_file
from cluster.tracking.config import store_uri as store_uri
from cluster.tracking.config import with_key as with_key
