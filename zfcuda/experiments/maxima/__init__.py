"""The strongest activations of every map over a data set (Zeiler & Fergus 2014, figure 2): in
memory (:mod:`.finding`), or streamed into a folder by a run that can be killed, resumed and spread
over processes (:mod:`.recording`)."""
