"""Runs in MLflow.

Reading order: `config` → `tracker` → `account` → `sender` → `delivery` (in a process: `apart`, `serving`) → `store` →
`pages`.
"""

from cluster.tracking.config import TrackingConfig as TrackingConfig
from cluster.tracking.tracker import Tracker as Tracker
from cluster.tracking.tracker import replay as replay
from cluster.tracking.tracker import replay_below as replay_below
from cluster.tracking.tracker import set_aside as set_aside
