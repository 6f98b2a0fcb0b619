"""The reader of pickled objects: whatever a file says, none of it is run. Its one door is `read_pickle`.

machine.py   goes through the opcodes of a pickle, within limits on what they may take
names.py     what the names in it stand for: functions of ours, or inert records
tensors.py   tensors on the file's numbers
archives.py  which pickles a file is made of, and where the numbers are
modules.py   the state dict of a module that was saved as an object
"""

from lit_pursamere.weights.pickles.archives import is_legacy, read_pickle
from lit_pursamere.weights.pickles.modules import ModuleState
from lit_pursamere.weights.pickles.tensors import NeedsCode, Refused

__all__ = ["ModuleState", "NeedsCode", "Refused", "is_legacy", "read_pickle"]
