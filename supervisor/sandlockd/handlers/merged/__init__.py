"""The calls of a program that has copy-on-write trees, where their paths or descriptors lead into one.

`places` finds that out; what does not lead there is left to the handlers beside this package, or to the kernel. What
the calls come to is decided by `overlay`, carried out by `store`, and answered on behalf: nothing here continues a call
on what was read of the program's memory, except where the call only tells what the kernel would tell as well.

On the loop, and nowhere else; what copies much is `Later`, and then asks again from the start.
"""
