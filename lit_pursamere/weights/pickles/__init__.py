"""The reader of pickled objects: whatever a file says, none of it is run. Its one door is `read_pickle`.

checks.py      opcodes, sizes, nesting and checksums, before anything is made
unpickling.py  an allow list of names, each with a stand-in of ours;  any other name is a class of inert records
records.py     what the stand-ins make: storages, tensors and objects as the file describes them
archives.py    which pickles a file is made of, and where the numbers of its storages are
modules.py     from records to tensors and state dicts
"""

from lit_pursamere.weights.pickles.archives import read_pickle
from lit_pursamere.weights.pickles.checks import check_zip, is_legacy
from lit_pursamere.weights.pickles.modules import ModuleState
from lit_pursamere.weights.pickles.records import NeedsCode, Record, Refused

__all__ = ["ModuleState", "NeedsCode", "Record", "Refused", "check_zip", "is_legacy", "read_pickle"]
